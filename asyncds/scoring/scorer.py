"""The interface of a scorer: completions in, judgements out, whatever the verifier does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from asyncds.tasks.base import Row, Score

if TYPE_CHECKING:
    from asyncds.scoring.episode import OpenEpisode

Reason = Literal["timeout", "memory", "crash", "exception", "invalid", "output"]
"""Why a verifier gave no judgement: it took too long, too much memory, ended, raised, returned what
is none, or printed or said too much."""

NO_SCORE = Score(0.0, False)
"""The score of a completion whose verifier gave no judgement."""


class ScorerUnavailableError(RuntimeError):
    """The scorer did not start, or has been closed, so that nothing can be scored."""


@dataclass(frozen=True)
class GroupScores:
    """One score per completion, in order.

    failures: why those that are NO_SCORE are that, by their place. error: the last one in words.
    """

    scores: list[Score]
    failures: Mapping[int, Reason]
    error: str = ""

    @property
    def errors(self) -> Mapping[Reason, int]:
        """How many are NO_SCORE, by reason."""
        return Counter(self.failures.values())


class Scorer(Protocol):
    """Judges the completions of a row, under a time limit for each."""

    async def score(self, row: Row, completions: Sequence[str]) -> GroupScores:
        """Judge every completion. Raises ScorerUnavailableError.

        One gets NO_SCORE where the verifier hung, crashed, ran out of memory or raised.
        """
        ...

    def episode(self, row: Row) -> AbstractAsyncContextManager[OpenEpisode]:
        """Enter an episode of a row, once there is a place for it. Raises ScorerUnavailableError.

        Left without being closed, its process is ended.
        """
        ...

    async def close(self) -> None:
        """Free everything, within a deadline. Can be called again."""
        ...
