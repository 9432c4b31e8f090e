"""Whole runs with the real parts, on the quickstart's model."""

import subprocess
import time
from collections.abc import Callable

import pytest

from asyncds.tiny.recipe import copy_shipped
from tests.e2e.harness import RUN_SECONDS, Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    root = tmp_path_factory.mktemp("runs")
    copy_shipped(root / "tiny")
    return Runner(root=root, model=root / "tiny")


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Poll a condition while a run goes on; fail when the run ends or time is up."""

    def wait(
        condition: Callable[[], bool],
        process: "subprocess.Popen[str]",
        seconds: float = RUN_SECONDS,
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, "the run ended too early"
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.05)

    return wait
