"""The number of generators of a run changes while it goes on; its processes are stand-ins."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncds.launch import scaling
from asyncds.launch.children import Child, Children
from asyncds.launch.errors import UserError
from asyncds.launch.scaling import Scaling, ask_for

LIVES = "import time; time.sleep(600)"
IGNORES = "import os, signal; signal.signal(15, signal.SIG_IGN); "
STUBBORN = f"{IGNORES} open(f'up-{{os.getpid()}}', 'w'); {LIVES}"


@pytest.fixture
def started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Children, Callable[[int], str]]]]:
    """A run with one generator, and a way to ask for others, which a supervisor answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").touch()
    everything: list[Child] = []

    def child(name: str, code: str) -> Child:
        everything.append(
            Child(name=name, command=[sys.executable, "-c", code], log=tmp_path / f"{name}.log")
        )
        return everything[-1]

    def start(code: str = LIVES) -> tuple[Children, Callable[[int], str]]:
        def generators(n: int) -> list[Child]:
            if n > 8:
                raise UserError("no room")
            return [child(f"generator-{i}", code) for i in range(n)]

        children = Children([child("coordinator", LIVES), *generators(1)])
        children.start()
        supervisor = Scaling(tmp_path, generators=generators, children=children)

        def ask(n: int) -> str:
            over = threading.Event()

            def turns() -> None:
                while not over.wait(0.01):
                    supervisor.turn()

            thread = threading.Thread(target=turns)
            thread.start()
            try:
                return ask_for(tmp_path, n)
            finally:
                over.set()
                thread.join()

        return children, ask

    yield start
    for one in everything:
        one.signal(signal.SIGKILL)


Start = Callable[..., tuple[Children, Callable[[int], str]]]


def test_more_and_fewer(started: Start) -> None:
    children, ask = started()
    assert ask(3) == "generator-1 is starting, generator-2 is starting"
    assert children.names == ["coordinator", "generator-0", "generator-1", "generator-2"]
    assert all(child.code is None for child in children._children)
    assert ask(3) == "the run has 3 already"
    gone = children._children[2:]
    assert ask(1) == "generator-1 leaves, generator-2 leaves"
    assert children.names == ["coordinator", "generator-0"]
    for child in gone:
        assert child.process is not None
        assert child.process.wait(60) == -signal.SIGTERM
    assert children.tend() == [], "who was told to leave is not started again"


def test_what_is_refused(started: Start, tmp_path: Path) -> None:
    _, ask = started()
    with pytest.raises(UserError, match="no room"):
        ask(9)
    assert not list(tmp_path.glob("generators.*"))


def test_a_name_is_given_again_once_it_is_free(started: Start, tmp_path: Path) -> None:
    children, ask = started(STUBBORN)
    ask(2)
    late = children._children[2].process
    assert late is not None
    while not (tmp_path / f"up-{late.pid}").exists():
        assert late.poll() is None
        time.sleep(0.01)
    ask(1)
    with pytest.raises(UserError, match="generator-1 is still leaving"):
        ask(2)
    late.kill()
    late.wait(60)
    assert ask(2) == "generator-1 is starting"


def test_all_are_ended_with_the_run(started: Start) -> None:
    children, ask = started()
    ask(3)
    ask(2)
    children.end(0.1)
    assert all(child.code is not None for child in children._children)
    assert len(children._children) == 4


def test_nobody_supervises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "ANSWER_SECONDS", 0.2)
    with pytest.raises(UserError, match="not a run directory"):
        ask_for(tmp_path, 2)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="nobody supervises the run in"):
        ask_for(tmp_path, 2)
    assert not (tmp_path / "generators.asked").exists()
