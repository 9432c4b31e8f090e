"""Writes base, learners, pools and components: the chart's objects without what only Helm needs.

make manifests
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "k8s"
CHART = ROOT / "deploy/helm/asyncds"
VALUES = Path(__file__).with_name("values.yaml")
HELM_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")
HELM_ANNOTATIONS = ("checksum/config", "checksum/files", "helm.sh/resource-policy")
MONITORED = [
    f"monitoring.{part}.enabled=true"
    for part in ("podMonitor", "prometheusRule", "grafanaDashboards")
]
REPLACED = re.compile(r"(-learner|-generator-[a-z0-9-]+?)-[0-9a-f]{6}\b")
"""Names in the chart of what an upgrade replaces as a whole; here one deletes it first."""
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Object = dict[str, Any]


def chart(values: Path, *sets: str) -> list[Object]:
    """Objects of the chart as the release `asyncds`, without tests, its config and its files."""
    helm = shutil.which("helm", path=f"{ROOT}/.tools/bin:{os.environ['PATH']}")
    if helm is None:
        raise FileNotFoundError("helm is missing: `make tools` fetches it")
    command = [helm, "template", "asyncds", str(CHART), "-f", str(values), "--skip-tests"]
    options = [option for pair in sets for option in ("--set", pair)]
    text = subprocess.run(
        [*command, "--kube-version", "1.33.0", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return [plain(o) for o in yaml.load_all(REPLACED.sub(r"\1", text), Loader=Loader) if o]


def plain(node: Any) -> Any:
    """The same without labels and annotations that only Helm has."""
    if isinstance(node, list):
        return [plain(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {key: plain(inner) for key, inner in node.items()}
    for field, names in (("labels", HELM_LABELS), ("annotations", HELM_ANNOTATIONS)):
        if isinstance(out.get(field), dict):
            kept = {k: v for k, v in out[field].items() if k not in names}
            out.pop(field)
            if kept:
                out[field] = kept
    return out


def files() -> dict[str, str]:
    """Content of every generated file, by path below this folder."""
    values = VALUES
    out: dict[str, list[Object]] = {}
    freed: dict[str, str] = {}
    for o in chart(values):
        component = o["metadata"]["labels"].get("app.kubernetes.io/component")
        if o["kind"] == "ConfigMap":
            freed |= {"base/freed": o["data"]["freed"]} if "freed" in o["data"] else {}
            continue
        if o["kind"] == "JobSet":
            name = "learners/jobset/learner"
        elif o["kind"] == "Deployment":
            name = "pools/deployment/generators"
        elif o["kind"] == "PodDisruptionBudget" and component == "generator":
            name = "pools/deployment/budget"
        elif o["kind"] == "NetworkPolicy":
            name = "base/network"
        else:
            name = f"base/{component}"
        out.setdefault(name, []).append(o)
    for o in chart(values, "learner.kind=StatefulSet", "generators.pools.main.kind=Job"):
        if o["metadata"]["name"] == "asyncds-learner" and o["kind"] in ("Service", "StatefulSet"):
            out.setdefault("learners/statefulset/learner", []).append(o)
        elif o["kind"] == "Job":
            out.setdefault("pools/job/generators", []).append(o)
        elif o["kind"] == "PodDisruptionBudget" and "generator" in o["metadata"]["name"]:
            out.setdefault("pools/job/budget", []).append(o)
    for o in chart(values, *MONITORED):
        if o["kind"] in ("PodMonitor", "PrometheusRule"):
            out.setdefault(f"components/monitoring/{o['kind'].lower()}", []).append(o)
        elif "grafana_dashboard" in o["metadata"]["labels"]:
            out.setdefault("components/dashboards/dashboards", []).append(o)
    head = "# Written by `make manifests` from the Helm chart.\n"
    texts = {
        f"{name}.yaml": head + yaml.safe_dump_all(objects, sort_keys=False, width=100)
        for name, objects in out.items()
    }
    scripts = {f"base/{p.name}": p.read_text() for p in sorted((CHART / "files").glob("*.*"))}
    return texts | scripts | freed


if __name__ == "__main__":
    for path, text in files().items():
        (MANIFESTS / path).parent.mkdir(parents=True, exist_ok=True)
        (MANIFESTS / path).write_text(text)
