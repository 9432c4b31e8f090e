"""The processes of trackers beside a real coordinator. Where one hangs or crashes, the package of
the tracker is made up, and everything else is real."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncds.config.load import dump_config, load_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.rollout.journal import Journal
from asyncds.telemetry.trackers.follower import read_place, unsent
from asyncds.transport.observer import Observer
from services.coordinator import trackers
from services.coordinator.trackers import TrackerProcesses
from tests.support.records import step_record
from tests.unit.services.coordinator.test_process import DEADLINE, coordinator, free_port

SUMMARY: dict[str, Any] = {"status": "finished", "steps": 2, "eval": []}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = parse_config(
        {
            "name": "r",
            "model": "none",
            "runs_dir": str(tmp_path),
            "telemetry": {"trackers": ["tensorboard"]},
        }
    )
    run = tmp_path / "r"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(config))
    with closing(Journal(run / "journal.db")) as journal, journal.transaction():
        for step in (1, 2):
            journal.add_step(step_record({"step": step, "reward": 0.5}))
    return config


@pytest.fixture
def run(config: RunConfig) -> Path:
    return Path(config.runs_dir) / config.name


def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What every process that starts from now on finds as `tensorboard`."""
    package = tmp_path / "made-up" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{known}")


def until_there(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_what_is_there_and_the_summary_are_sent(config: RunConfig, run: Path) -> None:
    pytest.importorskip("tensorboard")
    processes = TrackerProcesses(config=config, run_dir=run)
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    processes.close()
    place = read_place(run, "tensorboard")
    assert (place.step, place.finished) == (2, True)
    assert unsent(run, "tensorboard") == 0
    assert len(list((run / "tensorboard").iterdir())) == 1


def said_of_trackers(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Threads that other tests have left behind may have something to say too."""
    return [r.message for r in caplog.records if r.name == trackers.__name__]


def test_one_that_hangs_holds_nobody_up_and_what_it_lacks_is_said(
    config: RunConfig,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hanging = tmp_path / "hanging"
    made_up(tmp_path, monkeypatch, f"open({str(hanging)!r}, 'w')\nwhile True: pass")
    monkeypatch.setattr(trackers, "END_SECONDS", 0.2)
    processes = TrackerProcesses(config=config, run_dir=run)
    until_there(hanging)
    processes.check()
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    processes.close()
    (said,) = said_of_trackers(caplog)
    assert said.startswith("tensorboard did not take 3 steps")
    assert f"asyncds track {run}" in said


def test_one_that_crashes_is_named_once(
    config: RunConfig,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made_up(tmp_path, monkeypatch, "import os; os._exit(9)")
    processes = TrackerProcesses(config=config, run_dir=run)
    deadline = time.monotonic() + DEADLINE
    while not said_of_trackers(caplog):
        assert time.monotonic() < deadline
        processes.check()
    processes.check()
    (said,) = said_of_trackers(caplog)
    assert said.startswith("the process for tensorboard ended with exit code 9")
    processes.close()


def test_beside_a_coordinator(config: RunConfig, run: Path) -> None:
    """Which is told to stop, as `asyncds run` tells it: with a signal to all in its session."""
    pytest.importorskip("tensorboard")
    file, port = run / "config.yaml", free_port()
    with (
        coordinator(file, port) as process,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        (child,) = children(process.pid)
        os.kill(child, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert load_config(file) == config
    assert read_place(run, "tensorboard").finished
    assert unsent(run, "tensorboard") == 0


def test_it_ends_when_the_coordinator_is_killed(config: RunConfig, run: Path) -> None:
    pytest.importorskip("tensorboard")
    port = free_port()
    with (
        coordinator(run / "config.yaml", port) as process,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        (child,) = children(process.pid)
        process.kill()
        deadline = time.monotonic() + DEADLINE
        while alive(child):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    place = read_place(run, "tensorboard")
    assert (place.step, place.finished) == (2, False)


def test_a_missing_package_is_bad_input(config: RunConfig, run: Path) -> None:
    """Seen by a Python that finds no installed packages' metadata."""
    code = (
        "import sys\n"
        "from asyncds.telemetry.trackers import make\n"
        "make._installed = lambda name: False\n"
        "sys.argv = ['asyncds', 'coordinator', *sys.argv[1:]]\n"
        "from asyncds.cli.main import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(run / "config.yaml"),
        f"coordinator.port={free_port()}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 2
    assert "needs the package tensorboard: install `asyncds[tensorboard]`" in done.stderr
    assert "Traceback" not in done.stderr


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
