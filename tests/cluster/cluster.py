"""The lab's cluster (tests/cluster/lab) for tests: kubectl, helm, waiting, and the chart on it.

Kubernetes 1.20 has less than the chart asks for. Made up for here: the version in Chart.yaml, the
field endPort of NetworkPolicies (which the lab does not enforce). Images: pods get this machine's
programs and this repository, mounted at their own paths.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.on_host import host_values
from tests.support.paths import ROOT

CHART = ROOT / "deploy/helm/asyncds"
LAB = ROOT / "tests/cluster/lab/lab.sh"
WAIT_SECONDS = 600.0
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=9).read().decode())"
Object = dict[str, Any]
T = TypeVar("T")


def search_path() -> str:
    """PATH in the pods."""
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def lab(
    *arguments: str, check: bool = True, timeout: float = 120, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(LAB), *arguments],
        env={**os.environ, "HOST_PATH": search_path(), "HOST_PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


def helm_program() -> str:
    found = shutil.which("helm", path=f"{ROOT / '.tools/bin'}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("needs helm: `make tools` fetches it")
    return found


class Cluster:
    """In namespace `default`. folder: for files that tests make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chart = folder / "chart"
        shutil.copytree(CHART, self.chart)
        about = self.chart / "Chart.yaml"
        text = about.read_text()
        assert 'kubeVersion: ">=1.25.0-0"' in text
        about.write_text(text.replace(">=1.25.0-0", ">=1.20.0-0"))
        self._renderer = folder / "renderer"
        script = Path(__file__).with_name("on_host.py")
        command = f'PYTHONPATH={ROOT} exec {sys.executable} {script} "$@"'
        self._renderer.write_text(f"#!/bin/sh\n{command}\n")
        self._renderer.chmod(0o755)
        self._values = folder / "host.yaml"
        self._values.write_text(json.dumps(host_values()))

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        return lab("exec", "kubectl", *arguments, stdin=stdin, check=check).stdout

    def apply(self, *objects: Object) -> None:
        for o in objects:
            self.kubectl("apply", "-f", "-", stdin=json.dumps(o))

    def helm(self, *arguments: str, timeout: float = 600) -> str:
        return lab("exec", helm_program(), *arguments, timeout=timeout).stdout

    def refused(self, *arguments: str) -> str:
        """What helm says, which does not do what it is asked for."""
        done = lab("exec", helm_program(), *arguments, timeout=600, check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def on_host(self, *options: str) -> list[str]:
        """Arguments for helm that make pods run this machine's programs. options: of on_host.py."""
        given = [x for o in options for x in ("--post-renderer-args", o)]
        return ["-f", str(self._values), "--post-renderer", str(self._renderer), *given]

    def objects(self, kind: str, **labels: str) -> list[Object]:
        """labels: `app.kubernetes.io/` is put before their names."""
        selector = ",".join(f"app.kubernetes.io/{k}={v}" for k, v in labels.items())
        text = self.kubectl("get", kind, "-l", selector, "-o", "json")
        found: list[Object] = json.loads(text)["items"]
        return found

    def pods(self, component: str, release: str = "trial") -> list[Object]:
        """That are not on their way out."""
        found = self.objects("pods", instance=release, component=component)
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def ready(self, component: str, release: str = "trial") -> list[Object]:
        """Pods that serve."""
        return [p for p in self.pods(component, release) if is_ready(p)]

    def wait(
        self, what: str, condition: Callable[[], T | None], seconds: float = WAIT_SECONDS
    ) -> T:
        """What the condition returns once that is true. What a request that fails says is kept for
        the end: a node may be cut off."""
        deadline, problem = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
                problem = ""
            except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            time.sleep(1.0)
        state = self.kubectl("get", "pods", "-o", "wide", check=False)
        raise AssertionError(f"{what}: not within {seconds:.0f} s; {problem}\n{state}")

    def metrics(self, pod: Object) -> dict[tuple[str, ...], float]:
        """Its samples: (name, label values in the order of their names…) → value."""
        text = self.fetch(pod, "metrics")
        return {
            (sample.name, *(v for _, v in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def fetch(self, pod: Object, path: str) -> str:
        """A page of its server."""
        assert "podIP" in pod["status"], "it has no address yet"
        url = f"http://{pod['status']['podIP']}:9400/{path}"
        return lab("exec", sys.executable, "-c", FETCH, url).stdout

    def log(self, pod: Object, container: str = "", *, previous: bool = False) -> str:
        name = pod["metadata"]["name"]
        more = ["--previous"] if previous else []
        return self.kubectl("logs", name, *(["-c", container] if container else []), *more)


def is_ready(pod: Object) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def volume(name: str, path: Path, *, size: str, claim: str) -> Object:
    """A volume on this machine, kept for one claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(path)},
            "claimRef": {"namespace": "default", "name": claim},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }


def claim(name: str, *, size: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def for_user(path: Path, user: int) -> Path:
    """Make a directory that is a user's."""
    path.mkdir(parents=True)
    os.chown(path, user, user)
    return path
