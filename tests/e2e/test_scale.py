"""Several generators, several learner ranks, ZeRO-3, an adapter instead of whole weights, a version
every other step, and encrypted links, over which a stranger would end the run."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from asyncds.protocol.codec import encode
from asyncds.protocol.wire import Stop
from asyncds.rollout.journal import Journal
from tests.e2e.harness import Result, Runner, free_ports

pytestmark = pytest.mark.slow
BOTH = {"generator-0", "generator-1"}


@pytest.fixture(scope="module")
def keys(runner: Runner) -> Path:
    keys = runner.root / "keys"
    command = [*runner.asyncds("keys", str(keys)), "--name=run"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return keys


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)


@pytest.fixture(scope="module")
def run(
    runner: Runner,
    wait_until: Callable[[Callable[[], bool], "subprocess.Popen[str]"], None],
    keys: Path,
    port: int,
) -> Result:
    """It goes on until both generators have made what was trained on, in two steps or more, and a
    stranger has spoken."""
    process = runner.start(
        *runner.command(
            "scaled",
            "steps=1000",
            "learner.ranks=2",
            "learner.zero_stage=3",
            "learner.lora.rank=4",
            "learner.micro_batch_tokens=128",
            "generator.replicas=2",
            "weights.publish_every=2",
            "algorithm.kl.coef=0.01",
            "algorithm.updates_per_batch=2",
            f"coordinator.port={port}",
            f"coordinator.curve.server_secret={keys / 'server.key_secret'}",
            f"coordinator.curve.clients={keys / 'clients'}",
            f"coordinator.curve.server_public={keys / 'server.key'}",
            f"coordinator.curve.client_secret={keys / 'run.key_secret'}",
        )
    )
    log = runner.root / "scaled" / "logs" / "coordinator-0.log"
    wait_until(lambda: log.exists() and "joined" in log.read_text(), process)
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(f"tcp://127.0.0.1:{port}")
        stranger.send(encode(Stop(reason="a stranger says so")))
        wait_until(lambda: _enough(runner.root / "scaled"), process)
    os.kill(process.pid, signal.SIGINT)
    result = runner.finish(process, "scaled")
    assert result.code == 0, result.output
    assert result.summary["status"] == "interrupted"
    return result


def _enough(run_dir: Path) -> bool:
    """Whether both generators have made what was trained on, and a third step is being made."""
    with closing(Journal(run_dir / "journal.db", read_only=True)) as journal:
        trained = [g for g in journal.groups(purpose="train") if g.step is not None]
    steps = {g.step for g in trained}
    return {g.generator for g in trained} == BOTH and len(steps) >= 3


def test_every_other_step_is_a_version(run: Result) -> None:
    steps = run.summary["steps"]
    assert steps >= 2
    assert run.summary["policy_version"] == steps // 2
    assert run.lines[0]["learner/kl"] >= 0
    assert run.lines[-1]["learner/kl"] > 0
    assert run.summary["groups_dropped"] == {}


def test_a_stranger_is_not_heard_and_no_key_is_written(run: Result, keys: Path, port: int) -> None:
    log = run.log("coordinator-0")
    assert f"tcp://127.0.0.1:{port}, encrypted" in log
    assert "refused a connection" in log
    assert "a stranger says so" not in log
    secret = (keys / "run.key_secret").read_text().split("secret-key")[1].split('"')[1]
    everything = [p for p in run.directory.rglob("*") if p.is_file() and p.suffix != ".pt"]
    assert not any(secret in p.read_bytes().decode(errors="replace") for p in everything)
