"""The processes of a run that `asyncds run` has started, by what they do."""

import os
import signal
from contextlib import suppress

import psutil

from tests.chaos.phases import Part


def find(run: int, part: Part) -> psutil.Process | None:
    """The process of a part of the run (of its first generator), None while there is none.

    run: process id of `asyncds run`.
    """
    words = {
        "coordinator": "coordinator",
        "learner": "learner",
        "generator": "--name=generator-0",
    }
    with suppress(psutil.NoSuchProcess):
        if part in words:
            mine = [c for c in psutil.Process(run).children() if _says(c, words[part])]
        else:
            generator = find(run, "generator")
            mark = "VLLM::EngineCore" if part == "engine" else "asyncds.scoring.worker"
            below = generator.children(recursive=True) if generator else []
            mine = [c for c in below if _says(c, mark)]
        return mine[0] if mine else None
    return None


def _says(process: psutil.Process, word: str) -> bool:
    try:
        return any(argument.strip() == word for argument in process.cmdline())
    except psutil.Error:
        return False


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended, also if nobody has asked for its exit code yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def send(process: psutil.Process, sent: signal.Signals) -> None:
    """To one process, if it lives."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(sent)


def send_all(process: psutil.Process, sent: signal.Signals) -> None:
    """To a role's process and everything in its session, as a machine that stands still would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, sent)
