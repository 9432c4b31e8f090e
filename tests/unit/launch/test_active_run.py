"""A run under way; its processes, and what its coordinator answers, are stand-ins."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncds.config.operation import SupervisionConfig
from asyncds.launch.active_run import ActiveRun
from asyncds.launch.children import Child, Children
from asyncds.protocol.records import LearnerStatus, RunStatus

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
        self.answer: RunStatus | None = None
        self.stopped: list[tuple[str, bool]] = []

    def status(self, timeout: float) -> RunStatus | None:
        return self.answer

    def stop(self, reason: str, *, failed: bool = False) -> None:
        self.stopped.append((reason, failed))

    def close(self) -> None:
        pass


def answer(*, over: bool, learner_seen: float | None = 0.0) -> RunStatus:
    return RunStatus(over=over, learner=LearnerStatus(last_seen=learner_seen))


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
    assert "learner left and is started again (1/2)" in run.status.message


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
    assert "killed" not in active.status.message


FAILS = """import sys
print("10:00:00.123 ERROR services.generator.main: there is no file data.jsonl")
print("INFO shutting down\\n" * 9)
sys.exit(2)"""


def test_a_run_that_can_not_go_on_says_why_and_waits_for_its_coordinator(
    start: Callable[..., tuple[ActiveRun, Answers]], tmp_path: Path
) -> None:
    over = tmp_path / "over"
    active, answers = start(
        f"import os, time\nwhile not os.path.exists({str(over)!r}): time.sleep(0.01)",
        FAILS,
    )
    answers.answer = answer(over=False)
    turn_until(active, lambda: bool(active.problem))
    assert active.problem.startswith("learner ended with exit code 2: there is no file data.jsonl")
    active.turn(0.01)
    assert answers.stopped[-1] == (active.problem, True)
    assert not active.over, "the coordinator has yet to write down how it ended"
    assert times_started(tmp_path, "learner") == 1
    over.touch()
    turn_until(active, lambda: active.over)


def test_only_what_the_newest_process_logged_counts(tmp_path: Path) -> None:
    one = child("role", tmp_path, FAILS)
    one.start()
    assert one.process is not None
    one.process.wait()
    assert "there is no file data.jsonl" in one.failure()
    two = child("role", tmp_path, "print('all was well'); import sys; sys.exit(1)")
    two.start()
    assert two.process is not None
    two.process.wait()
    assert two.failure().splitlines()[1:] == ["  all was well"]


def test_one_ctrl_c_ends_a_run_in_order_and_one_more_at_once(
    start: Callable[..., tuple[ActiveRun, Answers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncds.launch.active_run.LEAVE_SECONDS", 3600.0)
    active, answers = start(LIVES, LIVES)
    active.interrupt()
    active.turn(0.01)
    assert answers.stopped == [("Ctrl-C", False)]
    assert not active.over
    active.interrupt()
    assert active.over
    assert active.problem == "aborted"
    active.end()
    assert all(one.code is not None for one in active._children._children)


def test_a_ctrl_c_while_processes_leave_makes_them_leave(
    start: Callable[..., tuple[ActiveRun, Answers]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncds.launch.active_run.LEAVE_SECONDS", 3600.0)
    active, _ = start(
        "pass", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LIVES
    )
    (tmp_path / "summary.json").write_text("{}")
    turn_until(active, lambda: active.over)
    signals: list[int] = [signal.SIGINT]
    active.end(hurry=lambda: bool(signals))
    assert active.problem == ""
    assert all(one.code is not None for one in active._children._children)


def test_who_is_loading_is_shown_until_it_is_heard(
    start: Callable[..., tuple[ActiveRun, Answers]],
) -> None:
    active, answers = start(LIVES, LIVES)
    answers.answer = answer(over=False, learner_seen=None)
    active.turn(0.01)
    assert active.status.message.startswith("learner is loading (")
    answers.answer = answer(over=False)
    active.turn(0.01)
    assert not active.status.message


def test_what_has_happened_does_not_hide_what_is_waited_for(
    start: Callable[..., tuple[ActiveRun, Answers]],
) -> None:
    active, answers = start(LIVES, "print('waiting for CPU 1', flush=True); " + LIVES)
    answers.answer = answer(over=False, learner_seen=None)
    waits = "learner is waiting for CPU 1 ("
    turn_until(active, lambda: active.status.message.startswith(waits))
    active._children._children[1].signal(signal.SIGKILL)
    turn_until(active, lambda: "learner died and is started again" in active.status.message)
    # The coordinator still says when it last heard the one that died.
    answers.answer = answer(over=False, learner_seen=600.0)
    turn_until(active, lambda: waits in active.status.message)
    assert "learner died and is started again" in active.status.message
