"""`asyncds attach`, `asyncds stop` and `--detach` (mocked: what the coordinator answers)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asyncds.cli import attach
from asyncds.launch.errors import UserError
from asyncds.protocol.records import RunStatus


class Answers:
    """In the place of the observer: what happens at each question, in order."""

    def __init__(self, *happens: Any) -> None:
        self.happens = list(happens)
        self.stopped: list[str] = []

    def status(self, _: float) -> RunStatus | None:
        answer = self.happens.pop(0)
        return answer() if callable(answer) else answer

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)

    def close(self) -> None:
        pass


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(attach, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(attach, "conclude", lambda *_: 7)

    def follow(*happens: Any, **options: bool) -> tuple[int, Answers]:
        answers = Answers(*happens)
        monkeypatch.setattr(attach, "open_run", lambda _: ([], "", answers))
        return attach.attach_command(tmp_path, **options), answers

    return follow


def test_a_run_is_followed_to_its_end(follow: Any, tmp_path: Path, capsys: Any) -> None:
    def ends() -> None:
        (tmp_path / "summary.json").write_text("{}")

    code, answers = follow(RunStatus(name="mine", message="trains"), None, ends)
    assert (code, answers.stopped) == (7, [])
    assert "trains" in capsys.readouterr().out


def test_it_is_told_to_stop_until_it_does(follow: Any, tmp_path: Path) -> None:
    code, answers = follow(
        RunStatus(), None, lambda: (tmp_path / "summary.json").write_text("{}") and None, stop=True
    )
    assert (code, answers.stopped) == (7, ["asyncds stop"] * 3)


def test_ctrl_c_leaves_it_alone(follow: Any, capsys: Any) -> None:
    code, answers = follow(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert (code, answers.stopped) == (0, [])
    assert "the run goes on" in capsys.readouterr().out


def test_nobody_answers(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "SILENT_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"no coordinator answers: the run in .* has ended"):
        follow(None)


def test_what_is_detached_has_a_session_and_a_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    script = (
        "import os, sys; from pathlib import Path; from rich.console import Console\n"
        "from asyncds.cli.run import _detached\n"
        "if _detached(Path(sys.argv[1]), Console(width=1000)): sys.exit(5)\n"
        "print('session', os.getsid(0) == os.getpid(), repr(sys.stdin.read()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 5
    assert f"asyncds attach {tmp_path} follows it" in done.stdout
    assert done.stderr == ""
    log = tmp_path / "logs" / "run.log"
    deadline = time.monotonic() + 60
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert log.read_text() == "session True ''\n"
