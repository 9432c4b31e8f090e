"""Retention: samples of groups that no restart can need may be deleted.

A learner that starts again does so from a checkpoint, and is given the groups that were trained
after it once more. A checkpoint of step s holds the batches 0 … s - 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoredGroup:
    """A group whose samples are there.

    open: it is part of an evaluation that is not finished. n_bytes: of its samples.
    """

    lease: int
    purpose: str
    state: str
    step: int | None
    open: bool
    n_bytes: int


def is_needed(group: StoredGroup, *, oldest_checkpoint: int) -> bool:
    """Whether a restart may need the samples.

    oldest_checkpoint: the step of the oldest one that a learner may start from; 0: the base model.
    """
    if group.state in ("failed", "evicted"):
        return False
    if group.purpose == "eval":
        return bool(group.open)
    if group.state == "committed" and group.step is not None:
        return group.step >= oldest_checkpoint
    return True


def to_delete(
    groups: Iterable[StoredGroup], *, oldest_checkpoint: int, n_bytes: int
) -> list[StoredGroup]:
    """The first of the groups that are not needed, until they make up `n_bytes`."""
    chosen: list[StoredGroup] = []
    for group in groups:
        if n_bytes <= 0:
            break
        if not is_needed(group, oldest_checkpoint=oldest_checkpoint):
            chosen.append(group)
            n_bytes -= group.n_bytes
    return chosen


def oldest_kept(saved: Sequence[int], *, keep_last: int, kept: Iterable[int] = ()) -> int:
    """The step of the oldest checkpoint that may be on the disk, 0 while there is none.

    saved: steps of all that were written, ascending. kept: those that are spared besides the last
    `keep_last`.
    """
    spared = set(kept)
    return min([*saved[-keep_last:], *(step for step in saved if step in spared)], default=0)
