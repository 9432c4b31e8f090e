"""The Helm chart, rendered by the real helm, for tests of what it makes."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from tests.support.paths import ROOT

CHART = ROOT / "deploy/helm/asyncds"
EXAMPLES = sorted((CHART / "values-examples").glob("*.yaml"))
TOOLS = ROOT / ".tools/bin"
CRDS = Path(os.environ.get("CRDS", ROOT / ".tools/crds"))
VERSIONS = ("1.25", "1.29", "1.33")
REPOSITORY = "registry.example.com/team/asyncds"
IMAGE = ("--set", f"image.repository={REPOSITORY}")
Object = dict[str, Any]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}: `make tools` fetches it")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def template(values: Path, *sets: str, version: str = "1.33") -> subprocess.CompletedProcess[str]:
    options = [option for pair in sets for option in ("--set", pair)]
    return helm(
        *("template", "trial", str(CHART), "-f", str(values), "--kube-version", f"{version}.0"),
        *("--namespace", "lab", *IMAGE, *options),
    )


def example(name: str) -> Path:
    return CHART / "values-examples" / f"{name}.yaml"


@cache
def text(values: Path, *sets: str, version: str = "1.33") -> str:
    done = template(values, *sets, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values: Path, *sets: str) -> list[Object]:
    return [o for o in yaml.load_all(text(values, *sets), Loader=Loader) if o]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = [o for o in objects if o["kind"] == kind and name in o["metadata"]["name"]]
    return found


def lasting(name: str) -> str:
    """The name without the end that changes with the pods."""
    return re.sub(r"(-learner|-generator-[a-z0-9-]+?)-[0-9a-f]{6}$", r"\1", name)


def pod_specs(node: Any) -> Iterator[Object]:
    """Everything below `node` that is a pod's specification."""
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for inner in node.values():
            yield from pod_specs(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from pod_specs(inner)


def run_config(objects: list[Object], tmp_path: Path, overrides: list[str]) -> RunConfig:
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "-config")["data"]["config.yaml"])
    return load_config(file, overrides)


each_example = pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
