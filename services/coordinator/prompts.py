"""The prompts of a run: which row the next training lease is for."""

import json
import zlib
from collections import deque
from collections.abc import Mapping

from asyncds.rollout.curriculum import Curriculum
from asyncds.rollout.journal import Journal
from asyncds.rollout.prompt_order import PromptOrder
from services.coordinator.task_facts import TaskFacts


class TrainingPrompts:
    """Chooses the row of the next training lease, and keeps in the journal how far it is.

    A row whose group became too old to train on comes again, once, before any other: its lease
    begins with attempt 2, so that a prompt that is too slow for the policy is not sampled for ever.

    weights: of the tasks that the rows are of, by name; {} where there is one. curriculum: says
    which rows are passed over.
    """

    def __init__(
        self,
        *,
        seed: int,
        weights: Mapping[str, float],
        curriculum: Curriculum,
        journal: Journal,
        task: TaskFacts,
    ) -> None:
        self._seed = seed
        self._weights = weights
        self._curriculum = curriculum
        self._journal = journal
        self._task = task
        self._order: PromptOrder | None = None
        self._sets: list[tuple[str, int]] = []
        self._again: deque[int] = deque(json.loads(journal.meta("refills") or "[]"))

    def next(self) -> tuple[int, int]:
        """A row of the task, and the attempt that its lease begins with."""
        if self._again:
            row = self._again.popleft()
            self._keep_again()
            return row, 2
        order = self._up_to_date()
        row = order.next(self._curriculum.wanted)
        self._journal.set_meta("cursor", str(order.position))
        if any(order.passed.values()):
            self._journal.set_meta("passed", json.dumps(order.passed))
        return row, 1

    def once_more(self, row: int) -> None:
        """Have this row come again: its group was not trained on."""
        self._again.append(row)
        self._keep_again()

    def _up_to_date(self) -> PromptOrder:
        """The order of the rows that there are by now, from where it stands."""
        sets = self._task.training_sets or [("", self._task.rows["train"])]
        if self._order is None or sets != self._sets:
            self._sets = sets
            self._order = PromptOrder(
                seed=self._seed,
                sets=sets,
                weights=self._weights,
                position=int(self._journal.meta("cursor") or 0),
                passed=json.loads(self._journal.meta("passed") or "{}"),
            )
        return self._order

    def _keep_again(self) -> None:
        self._journal.set_meta("refills", json.dumps([*self._again]))


def sampling_seed(seed: int, purpose: str, key: int | str) -> int:
    """The seed of a lease's first sample, the same in every run with this seed; int32 ≥ 0.

    key: the lease's id for training; the row and the temperature for evaluation, so that
    evaluations of one run share their random numbers and differ less by chance.
    """
    return zlib.crc32(f"{seed}/{purpose}/{key}".encode()) & 0x3FFFFFFF
