"""Joining a run: from its directory alone, to a coordinator that really runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asyncds.cli import join
from asyncds.cli.join import join_arguments, joiner_name
from asyncds.config.load import load_config
from asyncds.launch.errors import UserError
from asyncds.launch.local import free_port
from asyncds.protocol.records import RunStatus
from asyncds.rollout.journal import Journal
from asyncds.transport.observer import Observer

DEADLINE = 60.0


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "runs" / "r"
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("name: r\nruns_dir: elsewhere\nmodel: none\n")
    return directory


@pytest.fixture
def coordinator(run_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """It answers, and stays when the run is over."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asyncds.cli.main", "coordinator"),
            *(str(run_dir / "config.yaml"), f"runs_dir={run_dir.parent}"),
            *(f"coordinator.port={port}", "coordinator.stay=true"),
        ]
    )
    with closing(Observer(f"tcp://127.0.0.1:{port}")) as observer:
        assert observer.status(DEADLINE) is not None
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("coordinator")
def test_the_directory_is_enough(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    file, *overrides = join_arguments(run_dir, ["generator.max_num_seqs=8"])
    config = load_config(Path(file), overrides)
    with closing(Observer(f"tcp://127.0.0.1:{config.coordinator.port}")) as observer:
        status = observer.status(DEADLINE)
    assert status is not None
    assert status.state == "starting"
    assert Path(config.runs_dir) / config.name == run_dir
    assert (config.telemetry.port, config.generator.max_num_seqs) == (0, 8)
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_a_run_that_is_over_is_not_joined(
    run_dir: Path, coordinator: "subprocess.Popen[bytes]"
) -> None:
    config = load_config(Path(join_arguments(run_dir, [])[0]), join_arguments(run_dir, [])[1:])
    with closing(Observer(f"tcp://127.0.0.1:{config.coordinator.port}")) as observer:
        observer.stop("enough")
        while not (observer.status(DEADLINE) or RunStatus(over=True)).over:
            pass
    with pytest.raises(UserError, match="is over: there is nothing to join"):
        join_arguments(run_dir, [])
    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(DEADLINE) == 0


def test_what_does_not_go_on_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ANSWER_SECONDS", 0.1)
    with pytest.raises(UserError, match="no coordinator has started"):
        join_arguments(run_dir, [])
    with closing(Journal(run_dir / "journal.db")) as journal:
        journal.set_meta("port", str(free_port()))
    with pytest.raises(UserError, match=r"no coordinator answers at tcp.*asyncds run --resume"):
        join_arguments(run_dir, [])
    (run_dir / "journal.db").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError, match=r"cannot open the journal .*journal\.db"):
        join_arguments(run_dir, [])
    (run_dir / "config.yaml").unlink()
    with pytest.raises(UserError, match="is not a run directory"):
        join_arguments(run_dir, [])


def test_joiners_have_names_of_their_own() -> None:
    assert joiner_name().endswith(f"-{os.getpid()}")
