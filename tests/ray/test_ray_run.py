"""`asyncds run --on ray` on a real Ray cluster: three nodes on this machine, two of which are lost.

What this can't show: machines that are apart, GPUs, NCCL, a file system that is shared and slow.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncds.config.load import load_config
from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from asyncds.tiny.recipe import copy_shipped
from tests.chaos.invariants import Left, violations
from tests.e2e.harness import Runner
from tests.ray.ray_cluster import RayCluster, cluster, wait_until

pytest.importorskip("ray", reason="the package ray is not installed (pip install asyncds[ray])")

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(7200)]

NAME = "on-ray"
STEPS = 300
GENERATOR, LEARNER = "--name=generator-0", "learner"


class Run:
    """The command, and what it has done so far."""

    def __init__(self, made: RayCluster, runner: Runner, name: str, *settings: str) -> None:
        self.directory = runner.root / name
        self._output = (runner.root / f"{name}.out").open("w+")
        command = runner.command(name, *settings)
        self.process = subprocess.Popen(
            [*command, "--on", f"ray={made.address}"],
            env=made.environment,
            cwd=runner.root,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        return Path(self._output.name).read_text()

    def lines(self) -> list[dict[str, Any]]:
        log = self.directory / "metrics.jsonl"
        return read_run_log(log) if log.exists() else []

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for it; the run must not end before."""

        def come() -> bool:
            assert self.process.poll() is None, self.said()
            return bool(condition())

        wait_until(come, self.said)

    def goes_on(self) -> None:
        """Wait for some steps more."""
        reached = len(self.lines())
        self.until(lambda: len(self.lines()) > reached + 2)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[RayCluster]:
    with cluster(tmp_path / "home", "a", "b", "c") as made:
        yield made


def test_a_run_outlives_its_nodes(made: RayCluster, tmp_path: Path) -> None:
    copy_shipped(tmp_path / "tiny")
    runner = Runner(root=tmp_path, model=tmp_path / "tiny")
    run = Run(made, runner, NAME, f"steps={STEPS}", "checkpoint.every=10")
    run.until(lambda: len(run.lines()) >= 3)
    homes = {made.node_of(GENERATOR), made.node_of(LEARNER)}
    assert len(homes & {"a", "b", "c"}) == 2, "each on a node of its own"

    # A node is left, where the generator goes on.
    made.kill(str(made.node_of(GENERATOR)))
    run.until(lambda: "generator-0 died (lost with its machine" in run.said())
    run.goes_on()

    # No node is left for the learner, until one comes.
    made.kill(str(made.node_of(LEARNER)))
    run.until(lambda: "learner is waiting for CPU 1 on the cluster" in run.said())
    made.add("d", cpus=1)
    run.goes_on()
    assert made.node_of(LEARNER) == "d"

    assert run.process.wait(3600) == 0, run.said()
    assert (read_summary(run.directory / "summary.json") or {})["status"] == "finished"
    config = load_config(run.directory / "config.yaml")
    with closing(Journal(run.directory / "journal.db", read_only=True)) as journal:
        assert violations(Left(run_dir=run.directory, config=config, journal=journal)) == []
    for module in ("asyncds.cli.main", "asyncds.launch.ray_step"):
        assert made.left(module) == []

    # Synchronous, since otherwise which groups are sampled first is a matter of chance.
    synchronous = ("steps=1", "rollout.max_lag=0")
    local = runner(f"{NAME}-local", *synchronous)
    run = Run(made, runner, f"{NAME}-first", *synchronous)
    assert run.process.wait(3600) == 0, run.said()
    (first,), (theirs,) = run.lines(), local.lines
    assert first["learner/loss"] == pytest.approx(theirs["learner/loss"], rel=1e-3, abs=1e-5)
