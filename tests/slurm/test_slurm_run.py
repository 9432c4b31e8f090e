"""`sbatch deploy/slurm/run.sbatch` on a real Slurm: three machines, two of them the learner's.

A generator's process is killed on its machine, and the job is told that its time is over: it is
queued again and goes on from the checkpoint to the run's end. What this can't show: machines that
are apart, GPUs, NCCL, a shared file system that is slow.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from asyncds.config.load import load_config
from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from asyncds.tiny.recipe import copy_shipped
from tests.chaos.invariants import Left, violations
from tests.e2e.harness import Runner, free_ports
from tests.slurm.slurm_daemons import missing, slurm
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

SECONDS = 900.0
NAME = "on-slurm"
STEPS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm"), port=free_ports(4)) as environment:
        yield environment


def until(condition: Callable[[], bool], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


def test_a_run_goes_on_when_its_job_is_queued_again(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    copy_shipped(tmp_path / "tiny")
    runner = Runner(root=tmp_path, model=tmp_path / "tiny")
    command = runner.command(NAME, f"steps={STEPS}", "learner.ranks=2", "checkpoint.every=10")
    settings = [word for word in command if "=" in word]
    output, run_dir = tmp_path / "job.out", tmp_path / NAME

    def said() -> str:
        return output.read_text() if output.exists() else "the job has printed nothing"

    def steps() -> int:
        log = run_dir / "metrics.jsonl"
        return len(read_run_log(log)) if log.exists() else 0

    submitted = subprocess.run(
        [
            *("sbatch", "--parsable", "--nodes=3", "--gpus-per-node=1", f"--output={output}"),
            *(str(ROOT / "deploy" / "slurm" / "run.sbatch"),),
            *(str(ROOT / "configs" / "quickstart.yaml"), *settings),
        ],
        env=cluster | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    job = submitted.stdout.strip()
    until(lambda: steps() >= 3, said)
    running = subprocess.run(
        ["squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%j %N"],
        env=cluster,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    assert {"generator-0 node3", "learner node[1-2]"} <= {line.strip() for line in running}

    os.kill(generator(run_dir).pid, signal.SIGKILL)
    reached = steps()
    until(lambda: "generator-0 died and is started again" in said(), said)
    until(lambda: steps() > reached + 1, said)

    subprocess.run(["scancel", "--signal=TERM", "--batch", job], env=cluster, check=True)
    until(lambda: "it is queued again" in said(), said)
    at = steps()
    assert at < STEPS
    assert any(run_dir.glob("checkpoints/step-*")), said()
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], env=cluster)

    until(lambda: summary(run_dir) == "finished", said)
    config = load_config(run_dir / "config.yaml")
    with closing(Journal(run_dir / "journal.db", read_only=True)) as journal:
        assert violations(Left(run_dir=run_dir, config=config, journal=journal)) == []


def summary(run_dir: Path) -> str:
    try:
        found = read_summary(run_dir / "summary.json")
    except json.JSONDecodeError:
        return ""
    return str(found["status"]) if found else ""


def generator(run_dir: Path) -> psutil.Process:
    """The generator's process, which is on another machine for all that the run knows."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if (
            "--name=generator-0" in words
            and f"{run_dir}/config.yaml" in words
            and words[0] != "srun"
        ):
            return process
    raise AssertionError("no generator runs")
