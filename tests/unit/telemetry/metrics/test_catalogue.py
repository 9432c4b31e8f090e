import re
import subprocess
import sys
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asyncds.telemetry.metrics.catalogue import CATALOGUE, drawn, exported, metrics
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.metrics.registry import build_metrics
from tests.support.records import step_record

ROLES = get_args(Role)


@pytest.mark.parametrize("role", ROLES)
def test_every_series_is_exported_seeded_with_zero_and_explained(role: Role) -> None:
    text = generate_latest(build_metrics(role).registry).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    for metric in exported(role):
        family = families[metric.series.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.documentation == f"{metric.help} [{metric.unit}]"
        assert bool(family.samples) == (not metric.open), f"{metric.name} is not seeded"
        assert all(s.value == 0 for s in family.samples)
        for label, values in metric.labels.items():
            assert {s.labels[label] for s in family.samples} == set(values)


@pytest.mark.parametrize("role", ROLES)
def test_names_are_unique_and_follow_prometheus_conventions(role: Role) -> None:
    names = [m.name for m in exported(role)]
    assert len(names) == len(set(names))
    for metric in exported(role):
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name


def test_declarations_make_sense() -> None:
    for metric in metrics():
        in_braces = set(re.findall(r"{(\w+)}", metric.key + metric.curve))
        assert in_braces <= set(metric.labels), metric
        assert bool(metric.record) == bool(metric.key), metric
        assert bool(metric.chart) == bool(metric.curve), metric
        assert metric.name or metric.record, metric
        assert metric.chart is None or metric.record, f"{metric} is drawn from records"
    keys = [m.line_key for m in metrics() if m.record == "batch"]
    assert len(keys) == len(set(keys))
    for chart, drawn_here in drawn().items():
        assert chart.note.endswith("."), chart
        assert len({m.record for m in drawn_here}) == 1, chart


def test_values_are_found_by_key_in_the_order_of_their_labels() -> None:
    by_name = {m.name: m for m in metrics() if m.name}
    keys = ["ess/lag=10", "ess/lag=9", "ess", "ess/generator=a=b", "ratio/max", "ratio/p01"]
    assert by_name["ess_by_lag"].found_in(keys) == [
        ({"lag": "9"}, "ess/lag=9"),
        ({"lag": "10"}, "ess/lag=10"),
    ]
    assert by_name["ess"].found_in(keys) == [({}, "ess")]
    assert by_name["ess_by_generator"].found_in(keys) == [
        ({"generator": "a=b"}, "ess/generator=a=b")
    ]
    assert [key for _, key in by_name["ratio"].found_in(keys)] == ["ratio/p01", "ratio/max"]
    at_k = by_name["pass_at_k"].found_in(["pass@1", "pass@16", "pass@2", "pass@1/low"])
    assert [labels["k"] for labels, _ in at_k] == ["1", "2", "16"]


def test_every_key_of_a_line_is_declared() -> None:
    record = step_record({"step": 1, "distinct/written": 1.0})
    keys = {key for key in record.line() if not key.startswith("learner/")}
    declared = {
        key
        for metric in CATALOGUE["coordinator"]
        if metric.record == "batch"
        for _, key in metric.found_in(keys)
    }
    assert keys - declared == set()


def test_series_are_reached_by_name_and_kind() -> None:
    metrics = build_metrics("coordinator")
    metrics.counter("steps_total").inc()
    metrics.counter("groups_total", event="leased").inc(3)
    metrics.gauge("pass_at_k", k="8", temperature="0.6").set(0.5)
    metrics.histogram("lag").observe(2)
    text = generate_latest(metrics.registry).decode()
    assert "asyncds_coordinator_steps_total 1.0" in text
    assert 'asyncds_coordinator_groups_total{event="leased"} 3.0' in text
    assert 'asyncds_coordinator_pass_at_k{k="8",temperature="0.6"} 0.5' in text
    assert 'asyncds_coordinator_lag_bucket{le="2.0"} 1.0' in text
    with pytest.raises(KeyError):
        metrics.counter("step_total")
    with pytest.raises(TypeError, match="steps_total is not a gauge"):
        metrics.gauge("steps_total")
    with pytest.raises(ValueError, match="label"):
        metrics.counter("groups_total", what="leased")


def test_two_roles_in_one_process_do_not_share_a_registry() -> None:
    one, other = build_metrics("learner"), build_metrics("learner")
    one.gauge("loss").set(2)
    assert "asyncds_learner_loss 0.0" in generate_latest(other.registry).decode()


def test_what_the_coordinator_imports_is_light() -> None:
    code = (
        "import sys\n"
        "import asyncds.telemetry.metrics.registry, asyncds.telemetry.server\n"
        "import asyncds.telemetry.run_log, asyncds.telemetry.summary\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'vllm', 'deepspeed', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
