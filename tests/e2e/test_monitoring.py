"""A real Prometheus with the shipped rules beside a real run: what dashboards and rules ask for is
there, and faults that are injected into the processes set off the alerts that name them.

Durations of the rules are divided by 60 so that they pass within a test. No Grafana: the queries of
its panels are run, their looks are not seen.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from asyncds.tiny.model import make_tiny_model
from asyncds.tiny.recipe import Recipe
from tests.e2e.harness import Runner, free_ports
from tests.support.paths import ROOT
from tests.support.prometheus_server import (
    ALERTS,
    PROMETHEUS,
    RECORDED,
    SELECTOR,
    Prometheus,
    faster,
    named,
    scraping,
    targets,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FASTER = 40
"""Failed syncs are up to 20 s apart, and two must be within the rule's 15 minutes."""
DEADLINE_SECONDS = 200.0


@pytest.fixture(scope="module")
def watched(
    runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, "subprocess.Popen[str]"]]:
    """A long run on numbers up to 3, which a model learns at once, in several ways each. Two
    generators are too slow for its learner, and the objective drives the policy to one of them. Its
    reward has parts, its evaluation two sets, and one of its coefficients changes, so that every
    panel has something to show.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # where the task's kind is
        yield from _watched(runner, tmp_path_factory.mktemp("prometheus"))


def _watched(runner: Runner, folder: Path) -> Iterator[tuple[Prometheus, "subprocess.Popen[str]"]]:
    model = runner.root / "small-numbers"
    make_tiny_model(
        model,
        recipe=Recipe(
            max_number=3,
            held_out=8,
            clean_steps=120,
            babble_steps=0,
            batch_size=128,
            warmup_steps=20,
        ),
    )
    first = free_ports(4)
    process = runner.start(
        *runner.command(
            "watched",
            f"telemetry.port={first}",
            "steps=100000",
            "generator.replicas=2",
            f"model={model}",
            "task={kind: tests.support.countdown_in_parts:CountdownInParts, "
            "options: {max_number: 3, n_eval: 8}}",
            "eval.n_problems=8",
            "rollout.group_size=8",
            "eval.every=10",
            "generator.max_num_seqs=3",
            "algorithm.advantage.kind=grpo",
            "algorithm.entropy_coef={start: -0.02, end: -0.03, steps: 100000}",
            "learner.lr=3e-4",
            "weights.prepare_seconds=2",
            "weights.transfer_seconds=2",
            "coordinator.suspect_seconds=3",
            "coordinator.dead_seconds=8",
            "checkpoint.every=100000",
            "learner.deepspeed={wall_clock_breakdown: true}",
        )
    )
    ports = {"coordinator": [first], "learner": [first + 1], "generator": [first + 2, first + 3]}
    text = faster((PROMETHEUS / "rules.yaml").read_text(), FASTER)
    with ExitStack() as stack:
        stack.callback(_end, process)
        yield stack.enter_context(scraping(folder, ports=ports, rules_text=text)), process


def _end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def _wait_for(prometheus: Prometheus, queries: set[str]) -> dict[str, Any]:
    """The series of each query, once all have some."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing := sorted(queries - set(found)):
        assert time.monotonic() < deadline, f"no series: {missing}"
        found |= {query: series for query in missing if (series := prometheus.series(query))}
        time.sleep(0.5)
    return found


def _wait_for_alerts(prometheus: Prometheus, wanted: set[str]) -> None:
    """Each of them fires at some time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    missing = set(wanted)
    while missing := missing - prometheus.firing():
        assert time.monotonic() < deadline, f"did not fire: {sorted(missing)}"
        time.sleep(0.5)


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # another took its place
        os.kill(pid, signal.SIGCONT)


def _child(parent: int, command: str) -> int:
    """The process among a process's children whose command line has this word."""
    listed = subprocess.run(
        ["ps", "-ww", "--ppid", str(parent), "-o", "pid=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        pid, arguments = line.split(maxsplit=1)
        if command in arguments:
            return int(pid)
    raise AssertionError(f"{parent} has no child {command}: {listed.stdout}")


def test_every_panel_shows_series_with_the_labels_of_its_legend(
    watched: tuple[Prometheus, "subprocess.Popen[str]"],
) -> None:
    prometheus, _ = watched
    asked = targets("10s")
    found = _wait_for(prometheus, {query for query, _ in asked})
    for query, legend in asked:
        for label in re.findall(r"{{(\w+)}}", legend):
            assert all(s["metric"].get(label) for s in found[query]), (query, label)
        shown = [named(legend, s["metric"]) for s in found[query]]
        assert len(set(shown)) == len(shown), f"{query} has several series called {shown}"


def test_every_rule_works_on_what_is_exported(
    watched: tuple[Prometheus, "subprocess.Popen[str]"],
) -> None:
    prometheus, _ = watched
    selectors = {s for rule in ALERTS.values() for s in SELECTOR.findall(rule["expr"])}
    asked = {query for query in selectors | set(RECORDED) if not query.startswith("asyncds:over")}
    _wait_for(prometheus, asked)  # it is not over
    assert {
        r["name"]: r.get("lastError", "") for r in prometheus.rules() if r["health"] != "ok"
    } == {}


def test_a_starved_learner_and_a_collapse_of_diversity_set_off_their_alerts(
    watched: tuple[Prometheus, "subprocess.Popen[str]"],
) -> None:
    prometheus, _ = watched
    _wait_for_alerts(prometheus, {"AsyncdsLearnerStarved", "AsyncdsDiversityCollapse"})


def test_an_engine_that_takes_no_weights_and_a_generator_that_hangs_set_off_theirs(
    watched: tuple[Prometheus, "subprocess.Popen[str]"],
) -> None:
    prometheus, process = watched
    first, second = (_child(process.pid, f"--name=generator-{i}") for i in range(2))
    with ExitStack() as stack:
        for stopped, alert in (
            (_child(first, "EngineCore"), "AsyncdsGeneratorStale"),  # the other goes on
            (_child(second, "EngineCore"), "AsyncdsSyncFailing"),
            (second, "AsyncdsGeneratorDead"),
        ):
            os.kill(stopped, signal.SIGSTOP)
            stack.callback(_go_on, stopped)  # so that the run ends at once
            _wait_for_alerts(prometheus, {alert})
        assert process.poll() is None
