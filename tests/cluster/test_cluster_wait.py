"""A run whose GPUs are others' for longer than a run may stand still: `make k8s-lab`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.telemetry.summary import read_summary
from asyncds.tiny.recipe import copy_shipped
from tests.cluster.cluster import Cluster, claim, for_user, volume
from tests.cluster.trial import DEMO, USER, VALUES, merged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STALL_SECONDS = 30
ALL = {"requests": {"nvidia.com/gpu": "8"}, "limits": {"nvidia.com/gpu": "8"}}


def test_a_run_waits_for_its_gpus_and_trains(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path
) -> None:
    """The GPUs are pretended: numbers of a node. What waits for them is real."""
    if not request.config.getoption("lab", False):
        pytest.skip("minutes: `make k8s-lab`")
    models = tmp_path / "models"
    copy_shipped(models / "tiny-countdown")
    runs = for_user(tmp_path / "coordinator", USER)
    cluster.apply(
        volume("waits-models", models, size="1Gi", claim="waits-models"),
        claim("waits-models", size="1Gi"),
        volume("waits-runs", runs, size="1Gi", claim="waits-asyncds-coordinator-runs"),
        volume(
            "waits-learner",
            for_user(tmp_path / "learner", USER),
            size="5Gi",
            claim="waits-asyncds-learner",
        ),
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "others"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {"name": "c", "image": "registry.local/pause:3.2", "resources": ALL}
                ],
            },
        },
    )
    values = merged(yaml.safe_load(DEMO.read_text()), yaml.safe_load(VALUES.read_text()))
    values["config"] |= {"steps": 3}
    values["config"]["coordinator"] = {"watch_seconds": 10, "stall_seconds": STALL_SECONDS}
    values["model"]["existingClaim"] = "waits-models"
    values["security"]["allowUnencrypted"] = True
    values["generators"]["defaults"]["gpus"] = 1
    file = tmp_path / "waits.yaml"
    file.write_text(yaml.safe_dump(values))
    cluster.wait("others' pod", lambda: phase(cluster, "others") == "Running")
    cluster.helm("install", "waits", str(cluster.chart), "-f", str(file), *cluster.on_host())
    try:
        cluster.wait("the learner to join", lambda: lonely(cluster))
        cluster.wait(
            "longer than a run may stand still",
            lambda: lonely(cluster)["elapsed"] > 3 * STALL_SECONDS,
        )
        (generator,) = cluster.pods("generator", "waits")
        said = [c.get("message", "") for c in generator["status"]["conditions"]]
        assert any("Insufficient nvidia.com/gpu" in words for words in said)
        cluster.kubectl("delete", "pod", "others")
        summary = cluster.wait(
            "its end", lambda: read_summary(runs / "waits/summary.json"), seconds=1800
        )
        assert (summary["status"], summary["steps"]) == ("finished", 3)
    finally:
        cluster.helm("uninstall", "waits")


def phase(cluster: Cluster, pod: str) -> str:
    return cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}")


def lonely(cluster: Cluster) -> Any:
    """The status of a run whose learner is there and waits for a generator."""
    (coordinator,) = cluster.pods("coordinator", "waits")
    status = json.loads(cluster.fetch(coordinator, "status.json"))
    assert status["state"] == "starting", status["message"]
    assert "generator" in status["waiting_for"], status["waiting_for"]
    return status
