"""The manifests in k8s/, built by a real kustomize: what the chart makes, and safe pods."""

import json
import runpy
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm_chart import (
    EXAMPLES,
    VERSIONS,
    Loader,
    Object,
    example,
    pod_specs,
    render,
    tool,
)
from tests.support.paths import ROOT

MANIFESTS = ROOT / "k8s"
OFF = [
    *("priorityClasses.create=false", "ray.enabled=false", "checkConfig=false"),
    "image.repository=asyncds",
]
OVERLAYS = {
    "cpu-demo": "cpu-demo",
    "single-node-gpu": "single-gpu-node",
    "multi-node": "8x8",
    "spot-generators": "spot-generators",
}
"""The example of the chart that each is the same as."""


@cache
def built(overlay: str) -> str:
    done = subprocess.run(
        [tool("kustomize"), "build", str(MANIFESTS / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(overlay: str) -> list[Object]:
    return [o for o in yaml.load_all(built(overlay), Loader=Loader) if o]


def comparable(objects: list[Object]) -> dict[tuple[str, str], Any]:
    """By kind and name, without the hash in the names of ConfigMaps, and lists of things with names
    in the order of these."""
    text = json.dumps(objects)
    for o in objects:
        if o["kind"] == "ConfigMap":
            name = o["metadata"]["name"]
            text = text.replace(f'"{name}"', f'"{"-".join(name.split("-")[:2])}"')

    def ordered(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: ordered(v) for k, v in node.items() if v not in ({}, [], None)}
        if isinstance(node, list):
            named = all(isinstance(x, dict) and {"name", "mountPath"} & set(x) for x in node)
            key = (lambda x: (x.get("mountPath", ""), x.get("name", ""))) if named else None
            return [ordered(x) for x in (sorted(node, key=key) if key else node)]
        return node

    return {(o["kind"], o["metadata"]["name"]): ordered(o) for o in json.loads(text)}


each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@each_overlay
def test_an_overlay_is_what_the_chart_makes(overlay: str) -> None:
    generate = runpy.run_path(str(ROOT / "deploy/kustomize/generate.py"))
    tool("helm")
    chart = comparable(generate["chart"](example(OVERLAYS[overlay]), *OFF))
    ours = comparable(build(overlay))
    assert sorted(ours) == sorted(chart)
    for key, theirs in chart.items():
        mine = ours[key]
        if key == ("ConfigMap", "asyncds-files"):
            assert {k: v.strip() for k, v in mine["data"].items()} == {
                k: v.strip() for k, v in theirs["data"].items()
            }
        elif key == ("ConfigMap", "asyncds-config"):
            mine, theirs = (yaml.safe_load(o["data"]["config.yaml"]) for o in (mine, theirs))
            assert mine == theirs
        else:
            assert mine == theirs, key


def test_what_is_generated_is_up_to_date() -> None:
    tool("helm")
    for path, text in runpy.run_path(str(ROOT / "deploy/kustomize/generate.py"))["files"]().items():
        assert (MANIFESTS / path).read_text() == text, f"{path}: run `make manifests`"


def test_a_changed_configuration_has_another_name_everywhere() -> None:
    for overlay in OVERLAYS:
        objects = build(overlay)
        maps = [o["metadata"] for o in objects if o["kind"] == "ConfigMap"]
        names = {m["name"] for m in maps if "grafana_dashboard" not in m.get("labels", {})}
        used = {
            v["configMap"]["name"]
            for o in objects
            for spec in pod_specs(o)
            for v in spec["volumes"]
            if "configMap" in v
        }
        assert used == names
        assert "asyncds-config" not in names, "it has a hash"


@pytest.mark.parametrize("version", VERSIONS)
def test_builtin_kinds_are_valid(version: str, tmp_path: Path) -> None:
    validate = tool("kubernetes-validate")
    files = [tmp_path / f"{overlay}.yaml" for overlay in OVERLAYS]
    for file in files:
        file.write_text(built(file.stem))
    done = subprocess.run(
        [validate, "-k", version, "--strict", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the restricted Pod Security Standard -------------------------------------------------------

VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start", "kernel.shm_rmid_forced"}


def violations(spec: Object) -> list[str]:
    """Every rule of the profile `restricted` (and of `baseline`, which it contains) that a pod
    breaks: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    found = [f for f in ("hostNetwork", "hostPID", "hostIPC") if spec.get(f)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in set(volume) - {"name"} - VOLUMES]
    pod = spec.get("securityContext", {})
    found += [s["name"] for s in pod.get("sysctls", []) if s["name"] not in SYSCTLS]
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            found += [f"{container['name']}: {why}" for why in in_container(container, pod)]
    return found


def in_container(container: Object, pod: Object) -> list[str]:
    own = container.get("securityContext", {})
    both = pod | own
    found = [f"hostPort {p['hostPort']}" for p in container.get("ports", []) if p.get("hostPort")]
    if own.get("privileged"):
        found.append("privileged")
    if own.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation")
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        found.append("may run as root")
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    if own.get("procMount", "Default") != "Default" or "seLinuxOptions" in both:
        found.append("procMount or seLinuxOptions")
    if both.get("appArmorProfile", {}).get("type") == "Unconfined":
        found.append("appArmorProfile")
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        found.append("does not drop ALL")
    more = set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
    return found + [f"adds {name}" for name in sorted(more)]


@each_overlay
def test_pods_of_an_overlay_are_restricted(overlay: str) -> None:
    specs = [spec for o in build(overlay) for spec in pod_specs(o)]
    assert len(specs) >= 3
    assert [why for spec in specs for why in violations(spec)] == []


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_pods_of_the_chart_are_restricted(values: Path) -> None:
    assert [why for o in render(values) for spec in pod_specs(o) for why in violations(spec)] == []


def test_locking_memory_as_root_is_asked_for_by_name() -> None:
    objects = render(example("multi-node-rdma"), "learner.rdma.runAsRoot=true")
    found = {why for o in objects for spec in pod_specs(o) for why in violations(spec)}
    assert found == {
        "learner: adds IPC_LOCK",
        "learner: may run as root",
        "check-config: adds IPC_LOCK",
        "check-config: may run as root",
    }


RESTRICTED: Object = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "c",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}
OWN = ("containers", 0, "securityContext")
BROKEN: list[tuple[tuple[str | int, ...], Any]] = [
    (("hostNetwork",), True),
    (("hostPID",), True),
    (("hostIPC",), True),
    (("volumes",), [{"name": "v", "hostPath": {"path": "/"}}]),
    (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
    (("securityContext", "runAsNonRoot"), False),
    (("securityContext", "runAsUser"), 0),
    (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
    (("securityContext", "appArmorProfile"), {"type": "Unconfined"}),
    (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}]),
    ((*OWN, "privileged"), True),
    ((*OWN, "allowPrivilegeEscalation"), True),
    ((*OWN, "procMount"), "Unmasked"),
    ((*OWN, "capabilities"), {"drop": ["NET_RAW"]}),
    ((*OWN, "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
]


@pytest.mark.parametrize(("path", "value"), BROKEN, ids=[str(p[-1]) for p, _ in BROKEN])
def test_each_rule_is_looked_for(path: tuple[str | int, ...], value: Any) -> None:
    assert violations(RESTRICTED) == []
    spec = json.loads(json.dumps(RESTRICTED))
    node = spec
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert len(violations(spec)) == 1
