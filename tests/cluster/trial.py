"""The release `trial` on the lab's cluster: the page's commands, run as they stand.

They run in a directory of their own, where `helm`, `kubectl` and `asyncds` are programs that call
the real ones on the lab's cluster. helm is told more than the page says: that pods run this
machine's programs. trial.yaml is edited, once it is there, to be a run that two cores can train.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from asyncds.tiny.recipe import copy_shipped
from tests.cluster.cluster import CHART, LAB, Cluster, Object, claim, for_user, helm_program, volume
from tests.cluster.page import command

USER = 10001
DEMO = CHART / "values-examples/cpu-demo.yaml"
VALUES = Path(__file__).with_name("values.yaml")


def fitted(values: Any) -> Any:
    """Values with those of the CPU demonstration, and of the story, in place of theirs."""
    for file in (DEMO, VALUES):
        values = merged(values, yaml.safe_load(file.read_text()))
    return values


def merged(below: Any, above: Any) -> Any:
    """Values over others, as helm takes several files."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: merged(below.get(key), above.get(key, below.get(key))) for key in below | above}


class Trial:
    """The release, and where its volumes are on this machine. runs: a directory for the journal.

    `done` has the page's commands that were run.
    """

    def __init__(self, cluster: Cluster, folder: Path, runs: Path) -> None:
        self.cluster = cluster
        self.runs = runs
        os.chown(runs, USER, USER)
        self.checkpoints = for_user(folder / "learner", USER)
        self.models = folder / "models"
        copy_shipped(self.models / "tiny-countdown")
        self.done: set[str] = set()
        self.folder = folder / "checkout"
        (self.folder / "deploy/helm").mkdir(parents=True)
        (self.folder / "deploy/helm/asyncds").symlink_to(cluster.chart)
        self.values = self.folder / "trial.yaml"
        self._programs = self._write_programs(folder / "bin")

    def _write_programs(self, folder: Path) -> Path:
        folder.mkdir()
        more = shlex.join(self.cluster.on_host())
        lab, helm = shlex.quote(str(LAB)), shlex.quote(helm_program())
        for name, script in {
            "kubectl": f'exec {lab} exec kubectl "$@"',
            "helm": f'case $1 in install|upgrade) set -- "$@" {more} ;; esac\n'
            f'exec {lab} exec {helm} "$@"',
            "asyncds": f'exec {sys.executable} -m asyncds.cli.main "$@"',
        }.items():
            real = f"PATH={shlex.quote(os.environ['PATH'])}"  # where none of these is found
            (folder / name).write_text(f"#!/bin/sh\n{real}\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    def volumes(self) -> list[Object]:
        return [
            volume("models", self.models, size="1Gi", claim="models"),
            claim("models", size="1Gi"),
            volume("runs", self.runs, size="1Gi", claim="trial-asyncds-coordinator-runs"),
            volume("learner", self.checkpoints, size="5Gi", claim="trial-asyncds-learner"),
        ]

    def run(self, *beginning: str, refused: bool = False, seconds: float = 1200) -> str:
        """The page's command that begins with these words; what it says."""
        line = command(*beginning)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert bool(done.returncode) == refused, f"{line}: {done.stdout}{done.stderr}"
        self.done.add(line)
        return done.stdout + done.stderr

    def fit(self) -> None:
        """Edit trial.yaml for this machine."""
        self.values.write_text(yaml.safe_dump(fitted(yaml.safe_load(self.values.read_text()))))

    def edit(self, **values: Any) -> None:
        """Edit trial.yaml; names of values have `__` for their dots. None: remove it."""
        there: Any = yaml.safe_load(self.values.read_text())
        for path, value in values.items():
            *above, name = path.split("__")
            place = there
            for key in above:
                place = place.setdefault(key, {})
            place[name] = value
            if value is None:
                del place[name]
        self.values.write_text(yaml.safe_dump(there))

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
        text = log.read_text() if log.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be half written
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def healthy(self) -> int:
        return int(self.coordinator()["asyncds_coordinator_members", "healthy"])

    def goes_on(self, steps: int = 3) -> int:
        """Waits for this many more batches than there are; returns how many there are then."""
        wanted = self.steps() + steps
        self.cluster.wait(f"{wanted} steps", lambda: self.steps() >= wanted)
        return self.steps()

    def generators(self, n: int) -> list[Object] | None:
        """The generators' pods, once there are so many, all serve, and the coordinator counts
        them."""
        ready = self.cluster.ready("generator")
        same = len(ready) == n == len(self.cluster.pods("generator")) == self.healthy()
        return ready if same else None

    def replaced(self, role: str, before: list[Object]) -> Callable[[], list[Object] | None]:
        """Whether other pods of a role serve, and all of those before are gone."""
        old = {pod["metadata"]["uid"] for pod in before}

        def others() -> list[Object] | None:
            there = self.cluster.objects("pods", instance="trial", component=role)
            new = {pod["metadata"]["uid"] for pod in there}
            ready = self.cluster.ready(role)
            return ready if new and not new & old and len(ready) == len(there) else None

        return others
