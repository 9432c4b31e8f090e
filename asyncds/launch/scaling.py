"""The number of generators of a run that goes on: asked for in its directory, answered there.

The directory is the one thing that whoever asks and the run's supervisor both see, wherever they
are.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from asyncds.launch.children import Child, Children
from asyncds.launch.errors import UserError

ANSWER_SECONDS = 20.0
"""For the supervisor to answer; it looks twice a second."""


def ask_for(run_dir: Path, generators: int) -> str:
    """Ask the supervisor of a run for so many generators; returns what it does, in a sentence.

    Raises UserError where it refuses, or nobody answers.
    """
    question, answer = _files(run_dir)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml")
    answer.unlink(missing_ok=True)
    _write(question, {"generators": generators})
    deadline = time.monotonic() + ANSWER_SECONDS
    while not answer.exists():
        if time.monotonic() > deadline:
            question.unlink(missing_ok=True)
            raise UserError(
                f"nobody supervises the run in {run_dir}: it is over, or was not started by "
                "`asyncds run`"
            )
        time.sleep(0.1)
    said = json.loads(answer.read_text("utf-8"))
    answer.unlink()
    if refused := said.get("refused"):
        raise UserError(refused)
    return str(said["done"])


class Scaling:
    """The supervisor's end: starts and ends generators of a run as it is asked to."""

    def __init__(
        self, run_dir: Path, *, generators: Callable[[int], list[Child]], children: Children
    ) -> None:
        """generators: all of a run that has so many; raises UserError if there is no room."""
        self._question, self._answer = _files(run_dir)
        self._question.unlink(missing_ok=True)
        self._generators = generators
        self._children = children

    def turn(self) -> str:
        """Do what was asked for since; returns it in a sentence, or ""."""
        if not self._question.exists():
            return ""
        wanted = json.loads(self._question.read_text("utf-8"))["generators"]
        self._question.unlink()
        try:
            generators = {child.name: child for child in self._generators(wanted)}
        except UserError as error:
            _write(self._answer, {"refused": str(error)})
            return ""
        there = [name for name in self._children.names if name.startswith("generator-")]
        more = [child for name, child in generators.items() if name not in there]
        if late := [child.name for child in more if child.name in self._children.leaving]:
            _write(self._answer, {"refused": f"{', '.join(late)} is still leaving: ask again soon"})
            return ""
        fewer = [name for name in there if name not in generators]
        for child in more:
            self._children.join(child)
        for name in fewer:
            self._children.leave(name)
        done = ", ".join(
            [f"{child.name} is starting" for child in more] + [f"{name} leaves" for name in fewer]
        )
        done = done or f"the run has {wanted} already"
        _write(self._answer, {"done": done})
        return done


def _files(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / "generators.asked", run_dir / "generators.answer"


def _write(path: Path, said: dict[str, object]) -> None:
    """Write a file that nobody sees in part."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(said), "utf-8")
    part.replace(path)
