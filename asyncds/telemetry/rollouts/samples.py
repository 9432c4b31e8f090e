"""Samples that pages show of a group: its completions, the equal ones together."""

from collections import Counter
from dataclasses import dataclass

from asyncds.telemetry.rollouts.read import Rollout

SAMPLE_COMPLETIONS = 8


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Completions of one problem: (count, correct, text), most frequent first.

    version: of the newest token. right of n were correct, with `distinct` different correct
    answers; `rest` are not shown. Where the samples were deleted, `distinct` is None and nothing is
    shown.
    """

    version: int
    n: int
    right: int
    distinct: int | None
    texts: list[tuple[int, bool, str]]
    rest: int


def sampled(rollout: Rollout) -> Sampled:
    """The most frequent completions of a group."""
    group = rollout.group
    if rollout.deleted:
        return Sampled(
            version=group.newest, n=group.n, right=group.n_correct, distinct=None, texts=[], rest=0
        )
    counts = Counter((c.correct, c.text) for c in rollout.completions)
    shown = counts.most_common(SAMPLE_COMPLETIONS)
    return Sampled(
        version=group.newest,
        n=len(rollout.completions),
        right=sum(c.correct for c in rollout.completions),
        distinct=len({c.answer for c in rollout.completions if c.correct}),
        texts=[(count, correct, text) for (correct, text), count in shown],
        rest=len(rollout.completions) - sum(count for _, count in shown),
    )
