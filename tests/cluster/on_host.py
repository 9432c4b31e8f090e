"""Pods that run this machine's programs: values for the chart, and a post-renderer for helm for
what values can't say. See cluster.py.

Options: `idle` puts a sleep in the place of every program, and nothing in that of claims of
storage, to see where pods go.
"""

import sys
from pathlib import Path

import yaml

from tests.support.helm_chart import Object, pod_specs
from tests.support.paths import ROOT


def mounted() -> list[str]:
    """Directories of this machine that pods need, none below another."""
    wanted = {Path("/usr"), Path("/etc/alternatives"), ROOT, Path(sys.prefix)}
    wanted.add(Path(sys.executable).resolve().parents[1])
    return sorted(str(p) for p in wanted if not any(q in p.parents for q in wanted))


def host_values() -> Object:
    """The chart's values that mount the directories into the pods of every role."""
    own = {
        "extraVolumes": [
            {"name": f"host-{i}", "hostPath": {"path": path}} for i, path in enumerate(mounted())
        ],
        "extraVolumeMounts": mounts(),
    }
    return {"coordinator": own, "learner": own, "generators": {"defaults": own}}


def mounts() -> list[Object]:
    return [
        {"name": f"host-{i}", "mountPath": path, "readOnly": True}
        for i, path in enumerate(mounted())
    ]


def on_host(o: Object, *, idle: bool) -> Object:
    """The same object, changed."""
    if o["kind"] == "NetworkPolicy":
        for rule in o["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                port.pop("endPort", None)  # newer than the lab, which enforces no policies
    for spec in pod_specs(o):
        for claimed in (
            v for v in spec.get("volumes", []) if idle and "persistentVolumeClaim" in v
        ):
            claimed["emptyDir"] = {}
            del claimed["persistentVolumeClaim"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            there = {m["name"] for m in container.setdefault("volumeMounts", [])}
            container["volumeMounts"] += [m for m in mounts() if m["name"] not in there]
            if idle:
                init = container in spec.get("initContainers", [])
                container["command"] = ["sleep", "0" if init else "100000"]
                container.pop("args", None)
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    container.pop(probe, None)
    return o


def main(options: list[str]) -> None:
    objects = [o for o in yaml.safe_load_all(sys.stdin) if o]
    yaml.safe_dump_all([on_host(o, idle="idle" in options) for o in objects], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
