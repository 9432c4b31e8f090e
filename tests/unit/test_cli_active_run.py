"""A run under way, with a stand-in for its coordinator that dies at once."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncds.cli.active_run import ActiveRun
from asyncds.cli.children import MAX_RESTARTS, Child, Children


@pytest.fixture
def coordinator(tmp_path: Path) -> Child:
    command = [sys.executable, "-c", "import sys; sys.exit(1)"]
    return Child(name="coordinator", command=command, log=tmp_path / "coordinator.log")


@pytest.fixture
def run(coordinator: Child, tmp_path: Path) -> Iterator[ActiveRun]:
    active = ActiveRun(
        children=Children([coordinator]),
        address="tcp://127.0.0.1:1",
        run_dir=tmp_path,
        keys=None,
    )
    yield active
    active.end()


def turn_until_over(run: ActiveRun) -> None:
    deadline = time.monotonic() + 60
    while not run.over:
        assert time.monotonic() < deadline, "it would wait for ever"
        run.turn(0.01)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_coordinator_that_keeps_dying_ends_the_run(
    run: ActiveRun, coordinator: Child, stopping: bool
) -> None:
    if stopping:
        run.stop("Ctrl-C")
    turn_until_over(run)
    assert coordinator.restarts == MAX_RESTARTS
    assert run.problem.startswith("coordinator ended with exit code 1")
