"""A run on a real cluster, from `helm install` to `helm uninstall`, with everything that happens to
pods meanwhile: `make k8s-lab`. The tests are one story, in this order."""

import json
import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.config.load import load_config
from asyncds.rollout.journal import Journal
from asyncds.telemetry.summary import read_summary
from asyncds.tiny.model import make_tiny_model
from asyncds.tiny.recipe import Recipe
from tests.chaos.invariants import Left, violations
from tests.cluster.cluster import (
    CHART,
    FETCH,
    Cluster,
    Object,
    claim,
    for_user,
    is_ready,
    lab,
    volume,
)
from tests.cluster.on_host import host_values, on_host
from tests.support.helm_chart import helm, one, run_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
USER = 10001
DEMO = CHART / "values-examples/cpu-demo.yaml"
VALUES = Path(__file__).with_name("values.yaml")
MORE_STEPS = 30


class Trial:
    """The release `trial`, and where its volumes are on this machine."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.runs = for_user(folder / "coordinator", USER)
        self.checkpoints = for_user(folder / "learner", USER)
        self.models = folder / "models"
        make_tiny_model(
            self.models / "tiny-countdown", recipe=Recipe(clean_steps=80, babble_steps=0)
        )

    def volumes(self) -> list[Object]:
        return [
            volume("models", self.models, size="1Gi", claim="models"),
            claim("models", size="1Gi"),
            volume("runs", self.runs, size="1Gi", claim="trial-asyncds-coordinator-runs"),
            volume("learner", self.checkpoints, size="5Gi", claim="trial-asyncds-learner"),
        ]

    def arguments(self, command: str, *more: str) -> list[str]:
        """Of helm, for this release."""
        return [
            *(command, "trial", str(self.cluster.chart)),
            *("-f", str(DEMO), "-f", str(VALUES), *more),
            *self.cluster.on_host(),
        ]

    def helm(self, command: str, *more: str) -> None:
        self.cluster.helm(*self.arguments(command, *more))

    def pods(self) -> set[str]:
        """Those of every role, each by what no other pod has."""
        roles = ("coordinator", "learner", "generator")
        return {p["metadata"]["uid"] for role in roles for p in self.cluster.pods(role)}

    @property
    def directory(self) -> Path:
        """The coordinator's run directory."""
        return self.runs / "trial"

    def coordinator(self) -> dict[tuple[str, ...], float]:
        """Its metrics."""
        pods = self.cluster.pods("coordinator")
        assert pods, "there is no coordinator"
        return self.cluster.metrics(pods[0])

    def steps(self) -> int:
        """Batches in the journal's log, whichever coordinator wrote them."""
        log = self.directory / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def healthy(self) -> int:
        return int(self.coordinator()["asyncds_coordinator_members", "healthy"])

    def goes_on(self, steps: int = 3) -> int:
        """Waits for this many more batches than there are; returns how many there are then."""
        wanted = self.steps() + steps
        self.cluster.wait(f"{wanted} steps", lambda: self.steps() >= wanted)
        return self.steps()


@pytest.fixture(scope="module")
def trial(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    if not request.config.getoption("lab", False):
        pytest.skip("the whole scenario takes a quarter of an hour: `make k8s-lab`")
    made = Trial(cluster, tmp_path_factory.mktemp("trial"))
    cluster.apply(*made.volumes())
    return made


def generators(trial: Trial, n: int) -> list[Object] | None:
    """The generators' pods, once there are so many, all serve, and the coordinator counts them."""
    ready = trial.cluster.ready("generator")
    same = len(ready) == n == len(trial.cluster.pods("generator")) == trial.healthy()
    return ready if same else None


def test_it_is_installed_and_trains(trial: Trial) -> None:
    trial.helm("install")
    trial.cluster.wait("the first steps", lambda: trial.steps() >= 3, seconds=600)
    trial.cluster.wait("a generator that serves", lambda: generators(trial, 1))
    for pod in trial.cluster.wait("every pod is ready", lambda: all_ready(trial)):
        restarts = {c["name"]: c["restartCount"] for c in pod["status"]["containerStatuses"]}
        assert set(restarts.values()) == {0}, restarts


def all_ready(trial: Trial) -> list[Object] | None:
    pods = trial.cluster.objects("pods", instance="trial")
    return pods if all(is_ready(pod) for pod in pods) else None


def test_helm_test_sees_a_step(trial: Trial) -> None:
    assert "Succeeded" in trial.cluster.helm("test", "trial")


def test_the_live_page_is_behind_its_service(trial: Trial) -> None:
    """Asked from a generator's pod, which only a cluster without network policies lets do it."""
    (pod,) = trial.cluster.pods("generator")
    said = trial.cluster.kubectl(
        *("exec", pod["metadata"]["name"], "-c", "generator", "--"),
        *("python3", "-c", FETCH, "http://trial-asyncds-page/status.json"),
    )
    (member,) = json.loads(said)["fleet"]
    assert member["name"] == pod["metadata"]["name"]


def test_generators_are_scaled_while_it_trains(trial: Trial) -> None:
    scale = ("scale", "deployment/trial-asyncds-generator-main")
    trial.cluster.kubectl(*scale, "--replicas=3")
    trial.cluster.wait("three generators", lambda: generators(trial, 3), seconds=600)
    trial.goes_on()
    trial.cluster.kubectl(*scale, "--replicas=1")
    trial.cluster.wait("one generator", lambda: generators(trial, 1))
    trial.goes_on()


def test_a_generators_pod_is_deleted(trial: Trial) -> None:
    (before,) = trial.cluster.pods("generator")
    trial.cluster.kubectl("delete", "pod", before["metadata"]["name"])
    (after,) = trial.cluster.wait("another one", lambda: generators(trial, 1), seconds=600)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    trial.goes_on()


def test_the_learners_pod_is_deleted(trial: Trial) -> None:
    steps = trial.steps()
    (before,) = trial.cluster.pods("learner")
    trial.cluster.kubectl("delete", "pod", before["metadata"]["name"])
    (after,) = trial.cluster.wait("another", lambda: trial.cluster.ready("learner"), seconds=600)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    trial.cluster.wait("steps beyond", lambda: trial.steps() > steps + 2, seconds=600)
    # SIGTERM had it save a checkpoint after its step: nothing is trained again.
    (coordinator,) = trial.cluster.pods("coordinator")
    joined = re.findall(r"joined at step (\d+)", trial.cluster.log(coordinator, "coordinator"))
    assert int(joined[-1]) >= steps


def test_the_coordinators_pod_is_deleted(trial: Trial) -> None:
    steps = trial.steps()
    (before,) = trial.cluster.pods("coordinator")
    (generator,) = trial.cluster.pods("generator")
    trial.cluster.kubectl("delete", "pod", before["metadata"]["name"])
    (after,) = trial.cluster.wait("another", lambda: trial.cluster.ready("coordinator"))
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    trial.cluster.wait("steps beyond", lambda: trial.steps() > steps + 2)
    (same,) = trial.cluster.wait("its generator", lambda: generators(trial, 1))
    assert same["metadata"]["uid"] == generator["metadata"]["uid"], "it was not started again"


def test_a_node_is_cut_off_and_comes_back(trial: Trial) -> None:
    (before,) = trial.cluster.pods("generator")
    assert before["spec"]["nodeName"] == "node2"
    lab("cut", "node2")
    try:
        (after,) = trial.cluster.wait(
            "a generator elsewhere",
            lambda: [p for p in trial.cluster.ready("generator") if not on(p, "node2")],
            seconds=600,
        )
        assert after["spec"]["nodeName"] == "node1"
        trial.goes_on()
    finally:
        lab("mend", "node2")
    trial.cluster.wait("the node", lambda: is_ready(node(trial, "node2")))
    trial.cluster.wait("the old pod's end", lambda: only(trial, after))
    trial.goes_on()


def on(pod: Object, name: str) -> bool:
    return bool(pod["spec"].get("nodeName") == name)


def node(trial: Trial, name: str) -> Object:
    found: Object = json.loads(trial.cluster.kubectl("get", "node", name, "-o", "json"))
    return found


def only(trial: Trial, pod: Object) -> bool:
    """Whether there is no other pod of a generator, not even one that is leaving."""
    found = trial.cluster.objects("pods", instance="trial", component="generator")
    return [p["metadata"]["uid"] for p in found] == [pod["metadata"]["uid"]]


def test_an_upgrade_with_a_mistake_changes_nothing(trial: Trial) -> None:
    before = trial.pods()
    misspelt = trial.arguments("upgrade", "--set", "config.rollout.groups_per_stp=3")
    assert "groups_per_stp" in trial.cluster.refused(*misspelt)
    trial.cluster.refused(*trial.arguments("upgrade", "--set", "config.rollout.target_lag=9"))
    said = trial.cluster.kubectl("logs", "job/trial-asyncds-check", "-c", "check-coordinator")
    assert "target_lag 9 is above max_lag 4" in said
    trial.goes_on()
    assert trial.pods() == before


def test_an_upgrade_of_the_generators_leaves_the_others_alone(trial: Trial) -> None:
    learners, before = trial.cluster.pods("learner"), trial.pods()
    trial.helm("upgrade", "--set", "config.generator.max_num_seqs=64")
    trial.cluster.wait("another generator", lambda: trial.pods() != before, seconds=600)
    trial.cluster.wait("that serves", lambda: generators(trial, 1), seconds=600)
    trial.goes_on()
    names = [pod["metadata"]["uid"] for pod in learners]
    assert [pod["metadata"]["uid"] for pod in trial.cluster.pods("learner")] == names


def test_an_upgrade_with_another_value_goes_on_with_the_run(trial: Trial) -> None:
    steps = trial.steps() + MORE_STEPS
    trial.helm("upgrade", "--set", f"config.steps={steps}")
    trial.cluster.wait("the end", lambda: over(trial), seconds=900)
    assert over(trial) == "finished"
    assert trial.steps() == steps


def over(trial: Trial) -> str | None:
    for labels, value in trial.coordinator().items():
        if labels[0] == "asyncds_coordinator_over" and value == 1:
            return labels[1]
    return None


def test_gpus_of_a_run_that_is_over_are_free(trial: Trial) -> None:
    def free() -> bool:
        return not any(
            trial.cluster.objects("pods", instance="trial", component=component)
            for component in ("generator", "learner")
        )

    trial.cluster.wait("no pods but the coordinator's", free)
    (coordinator,) = trial.cluster.ready("coordinator")
    said = trial.cluster.log(coordinator, "free")
    assert said.count("has no pods from now on") == 2
    # The token is good for the scale of these two, and for nothing else.
    account = "system:serviceaccount:default:trial-asyncds-coordinator"
    allowed = trial.cluster.kubectl("auth", "can-i", "--list", f"--as={account}")
    own = [line for line in allowed.splitlines() if "trial-asyncds" in line]
    assert len(own) == 2
    assert all("/scale" in line and "[patch]" in line for line in own)
    for container in ("coordinator", "free"):
        there = trial.cluster.kubectl(
            *("exec", coordinator["metadata"]["name"], "-c", container, "--"),
            *("sh", "-c", "ls /var/run/secrets/kubernetes.io/serviceaccount || true"),
        )
        assert ("token" in there) == (container == "free")


def test_its_result_is_whole(trial: Trial) -> None:
    summary: Any = read_summary(trial.directory / "summary.json")
    config_map = json.loads(
        trial.cluster.kubectl("get", "configmap", "trial-asyncds-config", "-o", "json")
    )
    file = trial.cluster.folder / "config.yaml"
    file.write_text(config_map["data"]["config.yaml"])
    config = load_config(file, [])
    assert summary["status"] == "finished"
    assert summary["steps"] == config.steps
    base, result = summary["eval"][0], summary["eval"][-1]
    assert (base["step"], result["step"]) == (0, config.steps)
    os.symlink(trial.checkpoints / "trial/checkpoints", trial.directory / "checkpoints")
    # Its coordinator stays, for who looks at its page.
    with closing(Journal(trial.directory / "journal.db", read_only=True)) as journal:
        left = Left(config=config, run_dir=trial.directory, journal=journal)
        assert violations(left) == []


def test_what_stays_after_uninstall_is_meant_to(trial: Trial) -> None:
    trial.cluster.helm("uninstall", "trial")

    def left() -> dict[str, list[str]]:
        kinds = trial.cluster.kubectl(
            *("api-resources", "--namespaced", "--verbs=list", "-o", "name")
        ).split()
        found: dict[str, list[str]] = {}
        for kind in sorted(set(kinds) - {"events", "events.events.k8s.io"}):
            named = trial.cluster.kubectl("get", kind, "-o", "name").split()
            if mine := [name for name in named if "trial" in name]:
                found[kind] = mine
        return found

    claims = ["trial-asyncds-coordinator-runs", "trial-asyncds-learner"]
    meant = {"persistentvolumeclaims": [f"persistentvolumeclaim/{name}" for name in claims]}
    deadline = time.monotonic() + 120
    while left() != meant and time.monotonic() < deadline:
        time.sleep(2)
    assert left() == meant
    assert read_summary(trial.directory / "summary.json") is not None


def test_the_values_of_the_scenario_are_accepted(tmp_path: Path) -> None:
    """By the chart and by asyncds; this needs no cluster."""
    host = tmp_path / "host.yaml"
    host.write_text(json.dumps(host_values()))
    files = [x for file in (DEMO, VALUES, host) for x in ("-f", str(file))]
    done = helm("template", "trial", str(CHART), *files)
    assert done.returncode == 0, done.stderr
    objects = [on_host(o, idle=False) for o in yaml.safe_load_all(done.stdout) if o]
    assert run_config(objects, tmp_path, []).steps > 1000, "it ends when it is told to"
    (learner,) = one(objects, "StatefulSet", "learner")["spec"]["template"]["spec"]["containers"]
    mounts = {m["mountPath"] for m in learner["volumeMounts"]}
    assert {"/usr", str(CHART.parents[2])} <= mounts
