"""Results of evaluations, as they lie in summary.json and the journal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncds.rollout.journal import Journal

Evaluation = dict[str, Any]
Int64 = npt.NDArray[np.int64]


def by_temperature(evaluations: Sequence[Evaluation]) -> dict[float, list[Evaluation]]:
    """Each temperature's evaluations, in order: only those of one temperature compare."""
    found: dict[float, list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault(evaluation["temperature"], []).append(evaluation)
    return found


def evaluation_counts(run_dir: Path, *, evaluation: int) -> tuple[Int64, Int64, Int64]:
    """(problem rows, ascending; samples; correct samples) of an evaluation, int64 [P] each.

    Runs of one task and split have the same rows, so that their problems can be paired.
    evaluation: the `id` of a result in summary.json.
    Raises JournalError if the journal can't be read, ValueError if it has no such evaluation.
    """
    journal = Journal(run_dir / "journal.db", read_only=True)
    try:
        if evaluation not in [e.id for e in journal.evaluations()]:
            raise ValueError(f"{run_dir} has no finished evaluation {evaluation}")
        counts = np.array(journal.evaluation_counts(evaluation), dtype=np.int64).reshape(-1, 3)
    finally:
        journal.close()
    return counts[:, 0], counts[:, 1], counts[:, 2]
