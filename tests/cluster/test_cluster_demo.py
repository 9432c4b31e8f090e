"""The CPU demonstration as it is shipped, on a real cluster to its end: it learns what the
quickstart learns. `make k8s-lab`."""

from pathlib import Path

import pytest

from asyncds.telemetry.summary import read_summary
from asyncds.tiny.recipe import copy_shipped
from tests.cluster.cluster import CHART, Cluster, claim, for_user, volume

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
USER = 10001
DEMO = CHART / "values-examples/cpu-demo.yaml"
GAIN = 0.15
"""Of Pass@1, at least: the quickstart gains about a quarter (README)."""


def test_the_demonstration_learns_as_the_quickstart_does(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not request.config.getoption("lab", False):
        pytest.skip("a run of ten minutes: `make k8s-lab`")
    models = tmp_path / "models"
    copy_shipped(models / "tiny-countdown")
    runs = for_user(tmp_path / "coordinator", USER)
    cluster.apply(
        volume("demo-models", models, size="1Gi", claim="models"),
        claim("models", size="1Gi"),
        volume("demo-runs", runs, size="1Gi", claim="demo-asyncds-coordinator-runs"),
        volume(
            "demo-learner",
            for_user(tmp_path / "learner", USER),
            size="5Gi",
            claim="demo-asyncds-learner",
        ),
    )
    cluster.helm(
        *("install", "demo", str(cluster.chart), "-f", str(DEMO)),
        *("--set", "image.repository=registry.local/host,image.pullPolicy=Never"),
        *("--set-string", "image.tag=1"),
        *cluster.on_host(),
    )
    try:
        summary = cluster.wait(
            "its end", lambda: read_summary(runs / "demo/summary.json"), seconds=3000
        )
        assert summary["status"] == "finished"
        cluster.wait("no pods but the coordinator's", lambda: freed(cluster))
    finally:
        cluster.helm("uninstall", "demo")
    base, *_, trained = summary["eval"]
    first, last = base["pass@k"], trained["pass@k"]
    assert (base["step"], trained["step"]) == (0, 200)
    with capsys.disabled():
        for k in ("1", "64"):
            print(f"\nPass@{k} {first[k]:.3f} → {last[k]:.3f}", end="")
        print(f" in {summary['wall_seconds']:.0f} s")
    assert last["1"] > first["1"] + GAIN
    assert last["64"] > first["64"] - 0.1


def freed(cluster: Cluster) -> bool:
    return not any(
        cluster.objects("pods", instance="demo", component=component)
        for component in ("generator", "learner")
    )
