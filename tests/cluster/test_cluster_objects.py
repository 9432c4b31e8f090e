"""What a real Kubernetes takes, and where it puts pods: the short form of the lab."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import CHART, ROOT, Cluster, helm_program, lab
from tests.cluster.on_host import on_host
from tests.support.helm_chart import CRDS, EXAMPLES, Loader
from tests.unit.deploy.test_kustomize import OVERLAYS, built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Object = dict[str, Any]
SMALL = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}
NEWER = {"policy/v1": "policy/v1beta1"}
"""Versions of the API that this Kubernetes does not have yet, and their predecessors."""


@pytest.fixture(scope="module")
def kinds(cluster: Cluster) -> set[str]:
    """Kinds that the server knows: its own, and those of the CRDs that are there."""
    if CRDS.is_dir():
        for file in sorted(CRDS.glob("*.yaml")):
            crd = without_empty_defaults(yaml.load(file.read_text(), Loader=Loader))
            crd["metadata"].pop("annotations", None)
            cluster.kubectl("create", "--validate=false", "-f", "-", stdin=yaml.safe_dump(crd))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    rows = cluster.kubectl("api-resources", "--no-headers").splitlines()
    return {row.split()[-1] for row in rows}


def without_empty_defaults(node: Any) -> Any:
    """A CRD that this server takes: it refuses defaults that are empty strings."""
    if isinstance(node, dict):
        if node.get("x-kubernetes-list-type") == "map":
            del node["x-kubernetes-list-type"], node["x-kubernetes-list-map-keys"]
        if node.get("default") == "":
            del node["default"]
        return {key: without_empty_defaults(inner) for key, inner in node.items()}
    return [without_empty_defaults(x) for x in node] if isinstance(node, list) else node


def refused(cluster: Cluster, objects: list[Object], kinds: set[str]) -> list[str]:
    """What the server has against each of these."""
    problems = []
    for o in objects:
        if o["kind"] not in kinds:
            continue
        o["apiVersion"] = NEWER.get(o["apiVersion"], o["apiVersion"])
        if o["kind"] == "NetworkPolicy":
            o = on_host(o, idle=False)
        done = lab(
            *("exec", "kubectl", "create", "--dry-run=server", "-f", "-"),
            stdin=yaml.safe_dump(o),
            check=False,
        )
        if done.returncode:
            problems.append(f"{o['kind']} {o['metadata']['name']}: {done.stderr.strip()}")
    return problems


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_the_server_takes_every_object_of_an_example(
    cluster: Cluster, kinds: set[str], values: Path
) -> None:
    command = [helm_program(), "template", "trial", str(CHART), "-f", str(values)]
    done = subprocess.run(
        [*command, "--kube-version", "1.33.0", "--set", "image.repository=registry.local/host"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    objects = [o for o in yaml.load_all(done.stdout, Loader=Loader) if o]
    assert refused(cluster, objects, kinds) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_every_object_of_an_overlay(
    cluster: Cluster, kinds: set[str], overlay: str
) -> None:
    objects = [o for o in yaml.load_all(built(overlay), Loader=Loader) if o]
    assert refused(cluster, objects, kinds) == []


def test_a_mistake_is_refused(cluster: Cluster, kinds: set[str]) -> None:
    objects = yaml.safe_load_all((ROOT / "k8s/learners/statefulset/learner.yaml").read_text())
    (service,) = (o for o in objects if o["kind"] == "Service")
    service["spec"]["ports"][0]["port"] = 123456
    assert "123456" in "".join(refused(cluster, [service], kinds))


def test_gpus_and_their_taint_place_the_pods(cluster: Cluster) -> None:
    """Mocked: what runs in the pods, which sleep; GPUs, which are numbers of a node."""
    cluster.helm(
        *("install", "placed", str(cluster.chart)),
        *("-f", f"{CHART}/values-examples/single-gpu-node.yaml"),
        *("--set", "image.repository=registry.local/host,image.pullPolicy=Never"),
        *("--set-string", "image.tag=1"),
        *("--set", "security.allowUnencrypted=true,security.curve.existingSecret="),
        *("--set", "security.curve.clientsSecret=,model.hfTokenSecret=,learner.kind=StatefulSet"),
        *("--set", "learner.storage.existingClaim=none"),
        *("--set", "learner.resources.requests.cpu=10m,learner.resources.requests.memory=16Mi"),
        *("--set", "generators.defaults.resources.requests.cpu=10m"),
        *("--set", "generators.defaults.resources.requests.memory=16Mi"),
        *("--set", "generators.pools.main.replicas=7"),
        *cluster.on_host("idle"),
    )  # fmt: skip
    try:
        nodes = cluster.wait("4 GPUs for generators", lambda: _placed(cluster, 4))
        assert nodes == {"node3": 4}, "4 of the 8 GPUs are the learner's"
        (learner,) = cluster.pods("learner", "placed")
        assert learner["spec"]["nodeName"] == "node3"
        waiting = [
            condition["message"]
            for pod in cluster.pods("generator", "placed")
            for condition in pod["status"]["conditions"]
            if condition.get("reason") == "Unschedulable"
        ]
        assert len(waiting) == 3
        assert all("Insufficient nvidia.com/gpu" in message for message in waiting)
        (coordinator,) = cluster.pods("coordinator", "placed")
        assert coordinator["spec"]["nodeName"] != "node3", "it has no use for a GPU node"
    finally:
        cluster.helm("uninstall", "placed")
    gone = {"deployment", "statefulset", "role", "rolebinding", "serviceaccount", "networkpolicy"}
    for kind in sorted(gone):
        assert cluster.objects(kind, instance="placed") == []


def test_workloads_that_cant_be_changed_are_replaced_by_an_upgrade(
    cluster: Cluster, kinds: set[str]
) -> None:
    """A Job of generators, and a JobSet, which the server keeps and nobody acts on. Mocked: what
    runs in the pods, which sleep."""
    if "JobSet" not in kinds:
        pytest.skip("needs the CRDs: see tests/support/helm_chart.py")
    values = cluster.folder / "replaced.yaml"
    wanted: dict[str, Any] = {
        "image": {"repository": "registry.local/host", "tag": "1", "pullPolicy": "Never"},
        "config": {"model": "/models/m", "steps": 100, "task": {"kind": "countdown"}},
        "model": {"existingClaim": "models"},
        "security": {"allowUnencrypted": True},
        "learner": {"kind": "JobSet", "gpusPerNode": 1, "storage": {"existingClaim": "none"}},
        "generators": {
            "pools": {"main": {"kind": "Job", "gpus": 0, "shmSize": "16Mi", "resources": SMALL}}
        },
    }

    def deploy(command: str) -> dict[str, str]:
        """By kind, the name of what there is then."""
        values.write_text(yaml.safe_dump(wanted))
        cluster.helm(
            *(command, "replaced", str(cluster.chart), "-f", str(values)),
            *cluster.on_host("idle"),
        )
        found = {}
        for kind, component in (("jobset", "learner"), ("job", "generator")):
            (found[kind],) = (
                o["metadata"]["name"]
                for o in cluster.objects(kind, instance="replaced", component=component)
                if "deletionTimestamp" not in o["metadata"]
            )
        return found

    about = cluster.chart / "Chart.yaml"
    chart = about.read_text()
    try:
        first = deploy("install")
        cluster.wait("its pod", lambda: _job(cluster, first["job"], "1"))
        wanted["config"]["learner"] = {"lr": 1e-5}
        other = deploy("upgrade")
        assert other["jobset"] != first["jobset"]
        assert other["job"] == first["job"], "generators do not read this"
        about.write_text(re.sub(r"^version: .*", "version: 98.0.0", chart, flags=re.M))
        assert deploy("upgrade") == other
        wanted["image"]["tag"] = "2"
        last = deploy("upgrade")
        assert last["jobset"] != other["jobset"]
        assert last["job"] != other["job"]
        cluster.wait("the other pod alone", lambda: _job(cluster, last["job"], "2"))
    finally:
        about.write_text(chart)
        cluster.helm("uninstall", "replaced")


def _job(cluster: Cluster, job: str, tag: str) -> bool:
    """Whether there is one generator's pod, which runs, of this Job and image."""
    found = cluster.objects("pods", instance="replaced", component="generator")
    return [
        (p["metadata"]["labels"]["job-name"], p["spec"]["containers"][0]["image"])
        for p in found
        if p["status"]["phase"] == "Running"
    ] == [(job, f"registry.local/host:{tag}")] and len(found) == 1


def _placed(cluster: Cluster, generators: int) -> Counter[str] | None:
    """Nodes of the generators' pods, once so many have one and so has the learner's."""
    nodes = Counter(
        pod["spec"]["nodeName"]
        for pod in cluster.pods("generator", "placed")
        if "nodeName" in pod["spec"]
    )
    learners = [p for p in cluster.pods("learner", "placed") if "nodeName" in p["spec"]]
    return nodes if nodes.total() == generators and learners else None
