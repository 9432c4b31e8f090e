import subprocess
import sys
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asyncds.telemetry.metrics.catalogue import CATALOGUE
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.metrics.registry import build_metrics

ROLES = get_args(Role)


@pytest.mark.parametrize("role", ROLES)
def test_every_series_is_exported_seeded_with_zero_and_explained(role: Role) -> None:
    text = generate_latest(build_metrics(role).registry).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    for series in CATALOGUE[role]:
        family = families[f"asyncds_{role}_{series.name}".removesuffix("_total")]
        assert family.type == series.kind
        assert family.documentation == series.help
        assert series.help.endswith("]"), f"{series.name} does not name its unit"
        seeded = all(series.labels.values())
        assert bool(family.samples) == seeded, f"{series.name} is not seeded"
        assert all(s.value == 0 for s in family.samples)
        for label, values in series.labels.items():
            assert {s.labels[label] for s in family.samples} == set(values)


@pytest.mark.parametrize("role", ROLES)
def test_names_are_unique_and_follow_prometheus_conventions(role: Role) -> None:
    names = [s.name for s in CATALOGUE[role]]
    assert len(names) == len(set(names))
    for series in CATALOGUE[role]:
        assert series.name.endswith("_total") == (series.kind == "counter"), series.name
        assert bool(series.buckets) == (series.kind == "histogram"), series.name


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
