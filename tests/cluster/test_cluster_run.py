"""A run on a real cluster, from `helm install` to `helm uninstall`, with everything that happens to
pods meanwhile: `make k8s-lab`. The tests are one story, in this order."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.config.load import load_config
from asyncds.rollout.journal import Journal
from asyncds.telemetry.summary import read_summary
from tests.chaos.invariants import Left, violations
from tests.cluster.cluster import CHART, FETCH, Cluster, Object, is_ready, lab
from tests.cluster.on_host import host_values, on_host
from tests.cluster.page import NOT_HERE, command, commands
from tests.cluster.trial import Trial, fitted
from tests.support.helm_chart import example, helm, one, run_config
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
MORE_STEPS = 30


@pytest.fixture(scope="module")
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallDisk]:
    """The coordinator's volume."""
    if not request.config.getoption("lab", False):
        pytest.skip("the whole scenario takes half an hour: `make k8s-lab`")
    with small_disk(tmp_path_factory.mktemp("disk") / "runs", mebibytes=256) as disk:
        yield disk


@pytest.fixture(scope="module")
def trial(disk: SmallDisk, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    made = Trial(cluster, tmp_path_factory.mktemp("trial"), disk.path)
    cluster.apply(*made.volumes())
    return made


def test_it_is_installed_and_trains(trial: Trial) -> None:
    trial.run("cp")
    trial.run("echo")
    trial.fit()
    trial.run("asyncds", "keys")
    trial.run("kubectl", "create", "secret", "generic", "asyncds-keys")
    trial.run("kubectl", "create", "secret", "generic", "asyncds-clients")
    trial.run("helm", "install")
    assert "Phase:          Succeeded" in trial.run("helm", "test", seconds=1800)
    assert trial.steps() > 0
    trial.cluster.wait("a generator that serves", lambda: trial.generators(1))
    for pod in trial.cluster.wait("every pod is ready", lambda: all_ready(trial)):
        restarts = {c["name"]: c["restartCount"] for c in pod["status"]["containerStatuses"]}
        assert set(restarts.values()) == {0}, restarts


def all_ready(trial: Trial) -> list[Object] | None:
    pods = trial.cluster.objects("pods", instance="trial")
    return pods if all(is_ready(pod) for pod in pods) else None


def test_its_state_is_seen(trial: Trial) -> None:
    assert trial.run("kubectl", "get", "pods").count("Running") == 3
    assert "the learner joined at step 0" in trial.run("kubectl", "logs")


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
    trial.run("kubectl", "scale")
    trial.cluster.wait("three generators", lambda: trial.generators(3), seconds=1200)
    trial.goes_on()
    trial.cluster.kubectl("scale", "deployment/trial-asyncds-generator-main", "--replicas=1")
    trial.cluster.wait("one generator", lambda: trial.generators(1))
    trial.goes_on()


def test_a_generators_pod_is_deleted(trial: Trial) -> None:
    (before,) = trial.cluster.pods("generator")
    trial.cluster.kubectl("delete", "pod", before["metadata"]["name"])
    (after,) = trial.cluster.wait("another one", lambda: trial.generators(1), seconds=1200)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    trial.goes_on()


def test_the_learners_pod_is_deleted(trial: Trial) -> None:
    steps = trial.steps()
    (before,) = trial.cluster.pods("learner")
    trial.cluster.kubectl("delete", "pod", before["metadata"]["name"])
    (after,) = trial.cluster.wait("another", lambda: trial.cluster.ready("learner"), seconds=1200)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    trial.cluster.wait("steps beyond", lambda: trial.steps() > steps + 2, seconds=1200)
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
    (same,) = trial.cluster.wait("its generator", lambda: trial.generators(1))
    assert same["metadata"]["uid"] == generator["metadata"]["uid"], "it was not started again"


def test_a_node_is_cut_off_and_comes_back(trial: Trial) -> None:
    (before,) = trial.cluster.pods("generator")
    assert before["spec"]["nodeName"] == "node2"
    lab("cut", "node2")
    try:
        (after,) = trial.cluster.wait(
            "a generator elsewhere",
            lambda: [p for p in trial.cluster.ready("generator") if not on(p, "node2")],
            seconds=1200,
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
    before, good = trial.pods(), trial.values.read_text()
    trial.edit(config__rollout__groups_per_stp=3)
    assert "groups_per_stp" in trial.run("helm", "upgrade", refused=True)
    trial.values.write_text(good)
    trial.edit(config__rollout__target_lag=9)
    trial.run("helm", "upgrade", refused=True)
    said = trial.cluster.kubectl("logs", "job/trial-asyncds-check", "-c", "check-coordinator")
    assert "target_lag 9 is above max_lag 4" in said
    trial.values.write_text(good)
    trial.goes_on()
    assert trial.pods() == before


def test_an_upgrade_of_the_generators_leaves_the_learner_alone(trial: Trial) -> None:
    learners, generators = trial.cluster.pods("learner"), trial.cluster.pods("generator")
    trial.edit(config__generator__max_num_seqs=64)
    trial.run("helm", "upgrade")
    trial.cluster.wait("another", trial.replaced("generator", generators), seconds=1200)
    trial.cluster.wait("that serves", lambda: trial.generators(1))
    trial.goes_on()
    assert uids(trial.cluster.pods("learner")) == uids(learners)


def test_an_upgrade_of_the_learner_replaces_it_as_a_whole(trial: Trial) -> None:
    """Old and new pods, with one volume, are there at once for a while."""
    learners, generators = trial.cluster.pods("learner"), trial.cluster.pods("generator")
    trial.edit(config__learner__lr=5.0e-5)
    trial.run("helm", "upgrade")
    trial.cluster.wait("another", trial.replaced("learner", learners), seconds=1200)
    trial.goes_on()
    assert uids(trial.cluster.pods("generator")) == uids(generators)


def test_an_upgrade_of_the_charts_version_replaces_nothing(trial: Trial) -> None:
    about = trial.cluster.chart / "Chart.yaml"
    about.write_text(re.sub(r"^version: .*", "version: 99.0.0", about.read_text(), flags=re.M))
    before = trial.pods()
    trial.run("helm", "upgrade")
    (learner,) = trial.cluster.objects("statefulset", instance="trial", component="learner")
    assert learner["metadata"]["labels"]["helm.sh/chart"] == "asyncds-99.0.0"
    trial.goes_on()
    assert trial.pods() == before


def test_an_upgrade_of_the_image_and_its_rollback_go_on_with_the_run(trial: Trial) -> None:
    before = working(trial)
    trial.edit(image__tag="2")
    trial.run("helm", "upgrade")
    everybody_is_another(trial, before, image="registry.local/host:2")
    before = working(trial)
    trial.run("helm", "rollback")
    everybody_is_another(trial, before, image="registry.local/host:1")
    trial.edit(image__tag="1")


def working(trial: Trial) -> dict[str, list[Object]]:
    return {role: trial.cluster.pods(role) for role in ("learner", "generator")}


def everybody_is_another(trial: Trial, before: dict[str, list[Object]], *, image: str) -> None:
    for role, pods in before.items():
        there = trial.cluster.wait(f"another {role}", trial.replaced(role, pods), seconds=1200)
        assert {c["image"] for pod in there for c in pod["spec"]["containers"]} == {image}
    trial.cluster.wait("that serves", lambda: trial.generators(1))
    trial.goes_on()


def test_a_full_volume_is_waited_for(trial: Trial, disk: SmallDisk) -> None:
    before = trial.pods()
    disk.fill()
    full = ("asyncds_coordinator_disk_full",)
    trial.cluster.wait("that it is noticed", lambda: trial.coordinator()[full] == 1)
    disk.make_room()
    trial.goes_on()
    assert trial.coordinator()[full] == 0
    assert trial.pods() == before


def test_an_upgrade_with_another_value_goes_on_with_the_run_to_its_end(trial: Trial) -> None:
    steps = trial.steps() + MORE_STEPS
    trial.edit(config__steps=steps)
    trial.run("helm", "upgrade")
    trial.cluster.wait("the end", lambda: over(trial), seconds=1800)
    assert over(trial) == "finished"
    assert trial.steps() == steps


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


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
    (trial.directory / "checkpoints").symlink_to(trial.checkpoints / "trial/checkpoints")
    # Its coordinator stays, for who looks at its page.
    with closing(Journal(trial.directory / "journal.db", read_only=True)) as journal:
        left = Left(config=config, run_dir=trial.directory, journal=journal)
        assert violations(left) == []


def test_what_stays_after_uninstall_is_meant_to(trial: Trial) -> None:
    trial.run("helm", "uninstall")

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


def test_every_command_of_the_page_was_run(trial: Trial) -> None:
    missing = [line for line in commands() if line not in trial.done]
    assert all(line.startswith(NOT_HERE) for line in missing), missing


def test_the_values_of_the_scenario_are_accepted(tmp_path: Path) -> None:
    """By the chart and by asyncds; this needs no cluster."""
    host, values = tmp_path / "host.yaml", tmp_path / "trial.yaml"
    host.write_text(json.dumps(host_values()))
    values.write_text(
        yaml.safe_dump(fitted(yaml.safe_load(example("single-gpu-node").read_text())))
    )
    done = helm("template", "trial", str(CHART), "-f", str(values), "-f", str(host))
    assert done.returncode == 0, done.stderr
    objects = [on_host(o, idle=False) for o in yaml.safe_load_all(done.stdout) if o]
    assert run_config(objects, tmp_path, []).steps > 1000, "it ends when it is told to"
    (learner,) = one(objects, "StatefulSet", "learner")["spec"]["template"]["spec"]["containers"]
    mounts = {m["mountPath"] for m in learner["volumeMounts"]}
    assert {"/usr", str(CHART.parents[2])} <= mounts


def test_the_page_has_every_command_of_the_story_once() -> None:
    """This needs no cluster either: of what the story runs, the page has one line each."""
    story = Path(__file__).read_text()
    for words in re.findall(r'trial\.run\(((?:"[^"]+"(?:, )?)+)', story):
        command(*re.findall(r'"([^"]+)"', words))
