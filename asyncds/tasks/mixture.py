"""Several tasks as one: its rows are theirs, one task's after the other's."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split, Task
from asyncds.tasks.registry import make_task


class MixtureTask(base.Task):
    """Tasks by name, whose rows are asked and judged as each of them says.

    tasks: by name, the ``kind`` and the ``options`` of each. The fields of a row are ``task``, the
    name, and ``index`` and ``fields`` of that task's own row. What is more than the interface of
    tasks, such as chats or episodes, the row's own task has: see ``own``.
    """

    name = "mixture"

    def __init__(self, *, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        self.tasks = {name: _made(name, one) for name, one in tasks.items()}

    @property
    def equivalences(self) -> tuple[str, ...]:
        """Names of all tasks' notions. A score's answers are under those of the row's task."""
        names = (name for task in self.tasks.values() for name in task.equivalences)
        return tuple(dict.fromkeys(names))

    @property
    def equivalence(self) -> str:
        return next(iter(self.tasks.values())).equivalence

    @property
    def reward_parts(self) -> tuple[str, ...]:
        names = (name for task in self.tasks.values() for name in base.reward_parts(task))
        return tuple(dict.fromkeys(names))

    def rows(self, split: Split) -> Sequence[Row]:
        return _Joined({name: task.rows(split) for name, task in self.tasks.items()})

    def sets(self, split: Split) -> Sequence[tuple[str, int]]:
        """A set for each task; for one that has several, TASK.SET for each of them."""
        found: list[tuple[str, int]] = []
        for name, task in self.tasks.items():
            own = base.evaluation_sets(task, split) if split != "train" else []
            found += [(f"{name}.{its}", n) for its, n in own] or [(name, len(task.rows(split)))]
        return found

    def prompt(self, row: Row) -> Prompt:
        task, its = own(self, row)
        return task.prompt(its)

    def score(self, row: Row, completion: str) -> Score:
        task, its = own(self, row)
        return task.score(its, completion)

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        task, its = own(self, row)
        return task.multiplicity(its)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, task in self.tasks.items():
            digest.update(f"{name} {task.fingerprint()}\n".encode())
        return digest.hexdigest()[:16]


def tasks_in(task: Task) -> dict[str, Task]:
    """The tasks that a task consists of, by name: itself, named "", unless it is a mixture."""
    return task.tasks if isinstance(task, MixtureTask) else {"": task}


def name_of(task: Task, row: Row) -> str:
    """The name of the task in ``tasks_in`` that a row is of."""
    return str(row.fields["task"]) if isinstance(task, MixtureTask) else ""


def own(task: Task, row: Row) -> tuple[Task, Row]:
    """The task that a row is of, and what the row is there."""
    if not isinstance(task, MixtureTask):
        return task, row
    return task.tasks[name_of(task, row)], Row(row.fields["index"], row.fields["fields"])


def _made(name: str, one: Mapping[str, Any]) -> Task:
    try:
        return make_task(one["kind"], **one["options"])
    except (ValueError, ImportError) as error:
        raise ValueError(f"{name}: {error}") from error


class _Joined(Sequence[Row]):
    """Rows of several tasks, one after the other."""

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        self._rows = rows

    @cached_property
    def _length(self) -> int:
        return sum(map(len, self._rows.values()))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[i] for i in places]
        place = places
        for name, rows in self._rows.items():
            if place < len(rows):
                its = rows[place]
                return Row(places, {"task": name, "index": its.index, "fields": its.fields})
            place -= len(rows)
        raise IndexError(index)
