"""Facts of a batch that are known without a model."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import numpy as np

from asyncds.algo.diversity import diversity
from asyncds.protocol.codec import MAX_PARTS, GroupArrays
from asyncds.protocol.records import BatchFacts, TaskBatch
from asyncds.rollout.journal_reader import GroupRow
from services.coordinator.dynamic_sampling import Signal
from services.coordinator.task_facts import TaskFacts


class BatchMeasure:
    """Measures batches by what is known of the run's task and algorithm."""

    def __init__(self, *, signal: Signal, task: TaskFacts) -> None:
        self._signal = signal
        self._task = task

    def facts(
        self, step: int, rows: Sequence[GroupRow], groups: Sequence[GroupArrays]
    ) -> BatchFacts:
        """The facts of batch `step`, of these rows of the journal, unpacked."""
        return batch_facts(
            groups,
            lags=[row.lag or 0 for row in rows],
            tasks=[self._task.training_set(row.row) for row in rows],
            teaches=partial(self._signal.carried_by, step=step),
        )


def batch_facts(
    groups: Sequence[GroupArrays],
    *,
    lags: Sequence[int],
    tasks: Sequence[str] = (),
    teaches: Callable[[GroupArrays], bool] = lambda _: True,
) -> BatchFacts:
    """Facts of a batch of these groups.

    lags: one per group. tasks: the names of their tasks, "" for one that has none; () where all
    have none. teaches: whether anything can be learnt from a group.
    """
    correct = np.concatenate([g.correct for g in groups])
    lengths = np.concatenate([g.sampled_lengths for g in groups])
    finished = np.concatenate([g.finished for g in groups])
    found = [
        {name: diversity(keys, g.correct.tolist()) for name, keys in g.answers.items()}
        for g in groups
    ]
    primary = [next(iter(of_group.values())) for of_group in found]
    shares = [d.top_share for d in primary if d.top_share is not None]
    overlaps = [d.self_overlap for d in primary if d.self_overlap is not None]
    teaching = [teaches(g) for g in groups]
    return BatchFacts(
        groups=len(groups),
        sequences=len(lengths),
        tokens=int(lengths.sum()),
        length=float(lengths.mean()),
        truncated=float(1 - finished.mean()),
        reward=float(np.concatenate([g.rewards for g in groups]).mean()),
        correct=float(correct.mean()),
        mixed_groups=float(np.mean([0 < g.correct.sum() < len(g.correct) for g in groups])),
        solved_groups=len(shares) / len(groups),
        teaching_groups=float(np.mean(teaching)),
        distinct_correct=float(np.mean([d.distinct for d in primary])),
        distinct={
            name: float(np.mean([one[name].distinct for one in found if name in one]))
            for name in dict.fromkeys(name for one in found for name in one)
        },
        top_share=float(np.mean(shares)) if shares else None,
        self_overlap=float(np.mean(overlaps)) if overlaps else None,
        lag_mean=float(np.mean(lags)),
        lag_max=max(lags),
        parts={
            name: float(np.concatenate([g.parts[name] for g in groups if name in g.parts]).mean())
            for name in islice(dict.fromkeys(n for g in groups for n in g.parts), MAX_PARTS)
        },
        given=sum(int(g.given[:, 1].sum()) for g in groups) / len(lengths),
        turns=1 + sum(len(g.given) for g in groups) / len(lengths),
        tasks={
            name: _of_task([i for i, task in enumerate(tasks) if task == name], groups, teaching)
            for name in sorted({*tasks} - {""})
        },
    )


def _of_task(
    places: Sequence[int], groups: Sequence[GroupArrays], teaching: Sequence[bool]
) -> TaskBatch:
    its = [groups[i] for i in places]
    return TaskBatch(
        groups=len(its),
        reward=float(np.concatenate([g.rewards for g in its]).mean()),
        correct=float(np.concatenate([g.correct for g in its]).mean()),
        length=float(np.concatenate([g.sampled_lengths for g in its]).mean()),
        zero_groups=float(np.mean([not teaching[i] for i in places])),
    )
