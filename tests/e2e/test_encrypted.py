"""A run whose links are encrypted, and a stranger who would join it."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import zmq

from asyncds.protocol.codec import encode
from asyncds.protocol.wire import Stop
from tests.e2e.harness import Runner

pytestmark = pytest.mark.slow


def test_an_encrypted_run_finishes_and_hears_no_stranger(
    runner: Runner, wait_until: Callable[[Callable[[], bool], "subprocess.Popen[str]"], None]
) -> None:
    keys = runner.root / "keys"
    made = subprocess.run(
        [sys.executable, "-m", "asyncds.cli.main", "keys", str(keys), "--name=run"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    process = runner.start(
        *runner.command(
            "encrypted",
            "coordinator.port=27431",
            f"coordinator.curve.server_secret={keys / 'server.key_secret'}",
            f"coordinator.curve.clients={keys / 'clients'}",
            f"coordinator.curve.server_public={keys / 'server.key'}",
            f"coordinator.curve.client_secret={keys / 'run.key_secret'}",
        )
    )
    log = runner.root / "encrypted" / "logs" / "coordinator-0.log"
    wait_until(lambda: log.exists() and "joined" in log.read_text(), process)
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect("tcp://127.0.0.1:27431")
        stranger.send(encode(Stop(reason="a stranger says so")))
        result = runner.finish(process, "encrypted")
    assert result.code == 0, result.output
    assert result.summary["status"] == "finished"
    assert result.summary["steps"] == 8
    assert "tcp://127.0.0.1:27431, encrypted" in log.read_text()
    secret = (keys / "run.key_secret").read_text().split("secret-key")[1].split('"')[1]
    everything = [p for p in result.directory.rglob("*") if p.is_file() and p.suffix != ".pt"]
    assert not any(secret in p.read_bytes().decode(errors="replace") for p in everything)
