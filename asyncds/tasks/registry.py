"""The registry: from the name of a task to the task."""

import difflib
import importlib
import inspect
from typing import Any

from asyncds.choices.open_kind import prepare
from asyncds.tasks.base import Task

KINDS = {
    "calculator": "asyncds.tasks.countdown.calculator:CalculatorTask",
    "code": "asyncds.tasks.code.task:CodeTask",
    "countdown": "asyncds.tasks.countdown.task:CountdownTask",
    "dataset": "asyncds.tasks.dataset.task:DatasetTask",
    "knights_knaves": "asyncds.tasks.knights_knaves.task:KnightsKnavesTask",
    "math": "asyncds.tasks.math.task:MathTask",
    "mixture": "asyncds.tasks.mixture:MixtureTask",
    "python_tool": "asyncds.tasks.python_tool:PythonToolTask",
    "reasoning_gym": "asyncds.tasks.reasoning_gym:ReasoningGymTask",
}


def make_task(kind: str, **options: Any) -> Task:
    """Make a task of a kind: a name in KINDS, or ``package.module:Class`` for one of your own.

    options: keyword arguments of its constructor. Raises ValueError with a sentence for an unknown
    kind, a class that can't be imported or options that the task does not take.
    """
    if ":" in kind:
        return prepare(kind, options, base=Task)()  # type: ignore[type-abstract]
    module, _, name = _path(kind).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task {kind!r} can't be imported: {error}") from error
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ValueError(f"task {kind!r}: {error}") from None
    task: Task = factory(**options)
    return task


def _path(kind: str) -> str:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f": known are {', '.join(KINDS)}"
        raise ValueError(f"unknown task {kind!r}{hint}")
    return KINDS[kind]
