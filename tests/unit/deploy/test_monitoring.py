"""Rules, dashboards and their pages, checked by promtool and by a Prometheus that scrapes servers
of all three roles. No Grafana: the dashboards' queries are run, their looks are not seen."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import prometheus_client as prom
import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, Histogram

from asyncds.protocol.state import State
from asyncds.rollout.journal import Journal
from asyncds.telemetry.metrics.catalogue import exported, metrics
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.metrics.registry import BUILD_INFO, Metrics, build_metrics
from asyncds.telemetry.server import MetricsServer
from services.coordinator.coordinator import Coordinator
from services.coordinator.telemetry import CoordinatorTelemetry
from tests.support.prometheus_server import (
    ALERTS,
    DEADLINE_SECONDS,
    GRAFANA,
    PROMETHEUS,
    RECORDED,
    ROOT,
    SELECTOR,
    Prometheus,
    named,
    panels,
    rules,
    scraping,
    targets,
    tool,
)
from tests.unit.services.coordinator.test_evaluation import make_config

ROLES = get_args(Role)
VALUES = {
    "bound": "low",
    "coefficient": "gamma_p",
    "equivalence": "written",
    "part": "format",
    "generator": "generator-0",
    "k": "1",
    "lag": "2",
    "set": "AIME",
    "task": "countdown",
    "temperature": "1",
    "timer": "fwd",
}
"""Of labels whose values a run brings."""
NAME = re.compile(r"\b(?:asyncds|vllm:)[\w:]+")


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [tool("promtool"), *arguments],
        capture_output=True,
        text=True,
        cwd=PROMETHEUS,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> list[str]:
    return [query for query, _ in targets()] + [
        r["expr"] for r in (*rules("alert"), *rules("record"))
    ]


def samples(name: str, kind: str) -> set[str]:
    return {f"{name}_{x}" for x in ("bucket", "sum", "count")} if kind == "histogram" else {name}


def of_vllm() -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, kind, labels) of vLLM's series as they are documented; test_engine_vllm_metrics.py
    compares that with vLLM."""
    rows = (ROOT / "docs/metrics.md").read_text().splitlines()
    cells = [[c.strip() for c in row.split("|")] for row in rows if row.startswith("| `vllm:")]
    return [
        (c[1].strip("`"), c[2], ("model_name", *(["engine"] if "admission" not in c[1] else []),
                                 *([c[3]] if c[3] else [])))
        for c in cells
    ]  # fmt: skip


# --- the files alone ----------------------------------------------------------------------------


def test_only_series_that_exist_are_asked_for_and_each_is_shown_somewhere() -> None:
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    ours = {m.series: samples(m.series, m.kind) for m in metrics() if m.name}
    known = {BUILD_INFO}.union(*ours.values())
    known |= {n for name, kind, _ in of_vllm() for n in samples(name, kind)}
    assert used - known - set(RECORDED) == set()
    assert [name for name, exported in ours.items() if not exported & used] == []


def test_rules_need_nothing_that_is_vllms_to_name() -> None:
    in_rules = [r["expr"] for r in (*rules("alert"), *rules("record"))]
    assert not [e for e in in_rules if "vllm:" in e]
    assert [query for query, _ in targets() if "vllm:" in query]


def test_every_recorded_series_is_documented() -> None:
    page = (ROOT / "docs/metrics.md").read_text().splitlines()
    recorded = [line.split("`")[1] for line in page if line.startswith("| `asyncds:")]
    assert sorted(recorded) == sorted(RECORDED)


def test_every_alert_has_a_severity_a_summary_and_a_runbook() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    headings = re.findall(r"^### (Asyncds\w+)$", page, re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        severity = rule["labels"]["severity"]
        assert severity in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        text = page.split(f"### {name}\n")[1].split("\n#")[0].strip()
        assert text.startswith(f"*{severity}.*"), f"{name} is not called {severity}"
        assert "**Do:**" in text, f"{name} does not say what to do"


def test_dashboards_are_what_their_script_writes(tmp_path: Path) -> None:
    for source in GRAFANA.glob("*.py"):
        shutil.copy(source, tmp_path)
    subprocess.run([sys.executable, "build.py"], cwd=tmp_path, check=True, timeout=60)
    written = {p.name: p.read_text() for p in tmp_path.glob("*.json")}
    shipped = {p.name: p.read_text() for p in GRAFANA.glob("*.json")}
    assert written == shipped, "run python deploy/grafana/build.py"


def test_panels_are_titled_explained_and_apart() -> None:
    for path in sorted(GRAFANA.glob("*.json")):
        page = json.loads(path.read_text())
        assert len({p["id"] for p in page["panels"]}) == len(page["panels"])
        taken: set[tuple[int, int]] = set()
        for p in page["panels"]:
            at = p["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, p["title"]
            assert at["x"] + at["w"] <= 24, p["title"]
            taken |= cells
            assert p["title"]
            said = p.get("description", "").split("\n")[0]
            assert p["type"] == "row" or said.endswith((".", "md"))
            assert len({t["refId"] for t in p.get("targets", [])}) == len(p.get("targets", []))


def test_panels_say_what_their_metrics_are_and_have_their_units() -> None:
    ours = {name: m for m in metrics() if m.name for name in samples(m.series, m.kind)}
    grafana = {"fraction": "percentunit", "seconds": "s", "bytes": "bytes", "rate": "sci"}
    looked_at = 0
    for p in panels():
        for target in p["targets"]:
            names = set(NAME.findall(target["expr"].split(" and on ")[0]))
            for name in names & set(ours):
                assert f"- {ours[name].series}: {ours[name].text}" in p["description"], p["title"]
            plain = re.fullmatch(
                r"(max|histogram_quantile)[^/*+]*", target["expr"].split(" and on ")[0]
            )
            if plain and len(names) == 1 and (metric := ours.get(names.pop())):
                unit = p["fieldConfig"]["defaults"]["unit"]
                assert unit == grafana.get(metric.unit, "short"), (p["title"], metric.series)
                looked_at += 1
    assert looked_at > 50


def test_every_chart_of_exported_metrics_is_on_one_dashboard() -> None:
    titles = Counter(p["title"] for p in panels() if p["type"] == "timeseries")
    charts = {m.chart.title for m in metrics() if m.name and m.chart is not None}
    assert {title: titles[title] for title in charts} == dict.fromkeys(charts, 1)


def test_runs_of_one_name_in_two_namespaces_are_two() -> None:
    """Nothing is summed up or matched by the name of the run without its namespace."""
    queries = [t["expr"] for p in panels() for t in p.get("targets", [])]
    queries += [rule["expr"] for rule in (*ALERTS.values(), *RECORDED.values())]
    matched = [x for q in queries for x in re.findall(r"\b(?:on|by) \(([^)]*)\)", q)]
    assert len(matched) > 100
    for labels in matched:
        names = {name.strip() for name in labels.split(",")}
        assert "run" not in names or "namespace" in names, labels


def test_colours_change_where_an_alert_begins() -> None:
    begins = re.compile(r"[<>](?: on \(namespace, run\))? ([\d.]+)")
    numbers = {float(n) for rule in ALERTS.values() for n in begins.findall(rule["expr"])}
    for p in panels():
        steps = p["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), p["title"]
        for value in values:  # a count begins with one, an alert where it is above zero
            assert value in numbers or value == 1, p["title"]


def test_the_space_that_is_left_is_measured(tmp_path: Path) -> None:
    metrics = build_metrics("coordinator")
    journal = Journal(tmp_path / "journal.db")
    config = make_config()
    coordinator = Coordinator(
        config=config, journal=journal, send=lambda peer, message: None, now=0.0
    )
    coordinator.end.conclude(State.FAILED, "it can't go on")
    telemetry = CoordinatorTelemetry(
        coordinator=coordinator, config=config, run_dir=tmp_path, journal=journal, metrics=metrics
    )
    telemetry.sample(0.0)
    over = {e: metrics.gauge("over", end=e)._value.get() for e in ("finished", "failed")}
    assert over == {"finished": 0, "failed": 1}
    telemetry.close()
    journal.close()
    size = metrics.registry.get_sample_value("asyncds_coordinator_disk_size_bytes")
    free = metrics.registry.get_sample_value("asyncds_coordinator_disk_free_bytes")
    assert size == shutil.disk_usage(tmp_path).total
    assert free is not None
    assert 0 < free < size


# --- promtool -----------------------------------------------------------------------------------


def test_prometheus_takes_configuration_and_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml")
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")


def test_every_alert_fires_with_its_fault_and_none_on_a_healthy_run() -> None:
    assert "SUCCESS" in promtool("test", "rules", "tests.yaml")


def test_no_alert_is_without_a_fault_that_sets_it_off() -> None:
    cases = yaml.safe_load((PROMETHEUS / "tests.yaml").read_text())["tests"]
    fired = {
        alert
        for case in cases
        for check in case["promql_expr_test"]
        for sample in check["exp_samples"]
        for alert in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(ALERTS)


# --- a real Prometheus --------------------------------------------------------------------------


class Run:
    """Every series of a role with a value, as after some batches. `go_on` is one batch more."""

    def __init__(self, role: Role) -> None:
        self._metrics: Metrics = build_metrics(role)
        self._table = exported(role)
        if role == "generator":
            self._engine = [_mocked(*series, self.registry) for series in of_vllm()]
        else:
            self._engine = []

    @property
    def registry(self) -> CollectorRegistry:
        return self._metrics.registry

    def go_on(self) -> None:
        for mocked in self._engine:
            mocked()
        for series in self._table:
            ways: list[dict[str, str]] = [{}]
            for label, values in series.labels.items():
                ways = [{**w, label: v} for w in ways for v in values or (VALUES[label],)]
            for labels in ways:
                match series.kind:
                    case "counter":
                        self._metrics.counter(series.name, **labels).inc()
                    case "gauge":
                        value = 1.0 if series.name == "over" else 0.5
                        self._metrics.gauge(series.name, **labels).set(value)
                    case "histogram":
                        self._metrics.histogram(series.name, **labels).observe(0.5)


def _mocked(
    name: str, kind: str, labels: tuple[str, ...], registry: CollectorRegistry
) -> Callable[[], object]:
    """A series of the engine, which is mocked: what moves it on."""
    values = dict.fromkeys(labels, "0")
    match kind:
        case "counter":
            return prom.Counter(name, name, labels, registry=registry).labels(**values).inc
        case "gauge":
            return Gauge(name, name, labels, registry=registry).labels(**values).inc
        case _:
            histogram = Histogram(name, name, labels, registry=registry).labels(**values)
            return lambda: histogram.observe(0.5)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, list[Run]]]:
    """The shipped configuration and rules, faster, and with the addresses of servers here: a
    coordinator, two learner ranks, two generators."""
    runs = {role: Run(role) for role in ROLES}
    with ExitStack() as stack:
        ports: dict[str, list[int]] = {}
        for role in ROLES:
            for _ in range(1 if role == "coordinator" else 2):
                server = MetricsServer(
                    registry=runs[role].registry,
                    host="127.0.0.1",
                    port=0,
                    healthy=lambda: "",
                    ready=lambda: "",
                )
                stack.callback(server.close)
                ports.setdefault(role, []).append(server.port)
        text = (PROMETHEUS / "rules.yaml").read_text().replace("interval: 15s", "interval: 1s")
        folder = tmp_path_factory.mktemp("prometheus")
        yield (
            stack.enter_context(scraping(folder, ports=ports, rules_text=text)),
            list(runs.values()),
        )


def wait_for(prometheus: Prometheus, runs: list[Run], queries: set[str]) -> dict[str, Any]:
    """The series of each query, once all have some with a value; the run goes on meanwhile."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing := sorted(queries - set(found)):
        assert time.monotonic() < deadline, f"no series with a value: {missing}"
        for run in runs:
            run.go_on()
        for query in missing:
            series = prometheus.series(query)
            if series and not any(math.isnan(float(s["value"][1])) for s in series):
                found[query] = series
        time.sleep(0.5)
    return found


def test_every_panel_shows_series_with_the_labels_of_its_legend(
    scraped: tuple[Prometheus, list[Run]],
) -> None:
    found = wait_for(*scraped, {query for query, _ in targets()})
    for query, legend in targets():
        for label in re.findall(r"{{(\w+)}}", legend):
            assert all(s["metric"].get(label) for s in found[query]), (query, label)
        shown = [named(legend, s["metric"]) for s in found[query]]
        assert len(set(shown)) == len(shown), f"{query} has several series called {shown}"


def test_every_rule_works_on_what_is_exported(scraped: tuple[Prometheus, list[Run]]) -> None:
    selectors = {s for rule in ALERTS.values() for s in SELECTOR.findall(rule["expr"])}
    wait_for(*scraped, selectors | set(RECORDED))
    prometheus, _ = scraped
    states = prometheus.rules()
    assert {r["name"] for r in states} == set(ALERTS) | set(RECORDED)
    assert {r["name"]: r.get("lastError", "") for r in states if r["health"] != "ok"} == {}
