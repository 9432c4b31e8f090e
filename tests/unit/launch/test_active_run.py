"""A run under way; its processes, and what its coordinator answers, are stand-ins."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncds.config.schema import SupervisionConfig
from asyncds.launch.active_run import ActiveRun
from asyncds.launch.children import Child, Children

SUPERVISION = SupervisionConfig(max_restarts=2, silent_seconds=60)
LIVES = "import time; time.sleep(600)"


def child(name: str, folder: Path, code: str) -> Child:
    """A process that notes that it was started, then does what `code` says."""
    note = f"open({str(folder / name)!r}, 'a').write('.');"
    return Child(name=name, command=[sys.executable, "-c", note + code], log=folder / f"{name}.log")


def times_started(folder: Path, name: str) -> int:
    note = folder / name
    return len(note.read_text()) if note.exists() else 0


class Answers:
    """In the place of the observer: what the coordinator answers."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.stopped: list[str] = []

    def status(self, timeout: float) -> dict[str, Any] | None:
        return self.answer

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)

    def close(self) -> None:
        pass


def answer(*, over: bool, learner_seen: float | None = 0.0) -> dict[str, Any]:
    return {"over": over, "fleet": [], "learner": {"last_seen": learner_seen}}


@pytest.fixture
def start(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., tuple[ActiveRun, Answers]]]:
    """A run of a coordinator and a learner that do what they are told to."""
    runs: list[tuple[ActiveRun, list[Child]]] = []
    answers = Answers()
    monkeypatch.setattr("asyncds.launch.active_run.Observer", lambda address, keys: answers)

    def start(coordinator: str, learner: str, **limits: Any) -> tuple[ActiveRun, Answers]:
        children = [
            child("coordinator", tmp_path, coordinator),
            child("learner", tmp_path, learner),
        ]
        active = ActiveRun(
            children=Children(children, supervision=SUPERVISION.model_copy(update=limits)),
            address="",
            run_dir=tmp_path,
            keys=None,
        )
        runs.append((active, children))
        return active, answers

    yield start
    for _, children in runs:
        for one in children:
            one.signal(signal.SIGKILL)


def turn_until(run: ActiveRun, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it would wait for ever"
        run.turn(0.01)
        time.sleep(0.01)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_coordinator_that_keeps_dying_ends_the_run(
    start: Callable[..., tuple[ActiveRun, Answers]], tmp_path: Path, stopping: bool
) -> None:
    run, _ = start("import sys; sys.exit(1)", LIVES)
    if stopping:
        run.stop("Ctrl-C")
    turn_until(run, lambda: run.over)
    assert times_started(tmp_path, "coordinator") == 1 + SUPERVISION.max_restarts
    assert run.problem.startswith("coordinator ended with exit code 1")


def test_who_leaves_while_the_run_goes_on_is_started_again(
    start: Callable[..., tuple[ActiveRun, Answers]], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("asyncds.launch.active_run.LATE_SECONDS", 0.0)
    run, answers = start(LIVES, "pass")
    answers.answer = answer(over=False)
    turn_until(run, lambda: times_started(tmp_path, "learner") == 2)
    assert not run.problem
    assert "learner left and is started again (1/2)" in run.status["message"]


@pytest.mark.parametrize(("over", "late"), [(True, 0.0), (None, 0.0), (False, 3600.0)])
def test_who_leaves_when_it_is_over_or_may_be_stays_away(
    start: Callable[..., tuple[ActiveRun, Answers]],
    tmp_path: Path,
    monkeypatch,
    over: bool | None,
    late: float,
) -> None:
    """late: how old the coordinator's answers may be, in seconds."""
    monkeypatch.setattr("asyncds.launch.active_run.LATE_SECONDS", late)
    run, answers = start(LIVES, "pass")
    answers.answer = None if over is None else answer(over=over)
    turn_until(run, lambda: "learner" in run._children.left())
    for _ in range(3):
        run.turn(0.01)
    assert "learner" in run._children.left()
    assert times_started(tmp_path, "learner") == 1


def test_a_process_that_hangs_is_killed_and_started_again(
    start: Callable[..., tuple[ActiveRun, Answers]], tmp_path: Path
) -> None:
    run, answers = start(LIVES, LIVES, silent_seconds=0.2)
    turn_until(run, lambda: times_started(tmp_path, "learner") == 1)
    answers.answer = answer(over=False)
    run.turn(0.01)
    assert times_started(tmp_path, "learner") == 1
    answers.answer = answer(over=False, learner_seen=1e-9)
    silent_since = time.monotonic()

    def wait() -> bool:
        ago = time.monotonic() - silent_since
        answers.answer = answer(over=False, learner_seen=ago)
        return times_started(tmp_path, "learner") == 2

    turn_until(run, wait)
    assert times_started(tmp_path, "coordinator") == 1


def test_a_run_that_was_stopped_by_ctrl_z_kills_nobody(
    start: Callable[..., tuple[ActiveRun, Answers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    active, answers = start(LIVES, LIVES)
    answers.answer = answer(over=False)
    active.turn(0.0)
    answers.answer = None  # the coordinator's answer to the next question is not there yet
    now = time.monotonic
    monkeypatch.setattr("asyncds.launch.children.time.monotonic", lambda: now() + 3600)
    active.turn(0.0)
    assert "killed" not in str(active.status.get("message"))
