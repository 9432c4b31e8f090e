"""Processes that serve one run after another, seen from the process that starts them; the roles
are stand-ins (warm_role.py)."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncds.launch.children import Children
from asyncds.launch.warm import WarmChild
from tests.support.paths import SUPPORT

ROLE = SUPPORT / "warm_role.py"


@pytest.fixture
def child(tmp_path: Path) -> Iterator[WarmChild]:
    made = WarmChild(
        name="role",
        command=[sys.executable, str(ROLE), "REPORT"],
        log=tmp_path / "role.log",
    )
    yield made
    made.close()
    made.signal(signal.SIGKILL)


@pytest.fixture
def begin(child: WarmChild, tmp_path: Path) -> Callable[[str, str], Path]:
    """Give the child a run; returns the file that gets the pid of whoever works on it."""

    def begin(name: str, word: str) -> Path:
        (tmp_path / name).write_text(word)
        child.assign([str(tmp_path / name)])
        child.start()
        return tmp_path / f"{name}.pid"

    return begin


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_process_serves_run_after_run(child: WarmChild, begin) -> None:
    first = begin("first", "well")
    until(lambda: child.code is not None)
    second = begin("second", "well")
    until(lambda: child.code is not None)
    assert child.code == 0
    assert first.read_text() == second.read_text()


def test_after_a_failure_comes_a_new_process(child: WarmChild, begin) -> None:
    first = begin("first", "badly")
    until(lambda: child.code is not None)
    assert child.code == 1
    second = begin("second", "well")
    until(lambda: child.code is not None)
    assert child.code == 0
    assert first.read_text() != second.read_text()


def test_one_that_is_killed_is_started_again_on_the_same_run(
    child: WarmChild, begin, tmp_path: Path
) -> None:
    pid = begin("run", "never")
    until(pid.exists)
    until(lambda: bool(pid.read_text()))
    before = pid.read_text()
    children = Children([child])
    assert child.code is None
    child.signal(signal.SIGKILL)
    until(lambda: child.code is not None)
    (tmp_path / "run").write_text("well")
    assert children.tend() == ["role died and is started again (1/3)"]
    until(lambda: child.code is not None)
    assert child.code == 0
    assert pid.read_text() != before


def test_the_end_of_a_run_leaves_the_process_to_the_next_one(child: WarmChild, begin) -> None:
    first = begin("first", "well")
    until(lambda: child.code is not None)
    Children([child]).end(timeout=0.1)
    second = begin("second", "well")
    until(lambda: child.code is not None)
    assert child.code == 0
    assert first.read_text() == second.read_text()


def test_the_end_of_a_run_ends_a_process_that_still_works_on_it(child: WarmChild, begin) -> None:
    pid = begin("run", "never")
    until(pid.exists)
    Children([child]).end(timeout=0.1)
    assert child.code == -signal.SIGTERM


def test_closed_pipes_end_the_process(child: WarmChild, begin) -> None:
    begin("run", "well")
    until(lambda: child.code is not None)
    child.close()
    assert child.process is not None
    assert child.process.wait(30) == 0
