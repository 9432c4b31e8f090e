"""The interface of a scorer: completions in, judgements out, whatever the verifier does."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from asyncds.tasks.base import Row, Score

Reason = Literal["timeout", "memory", "crash", "exception"]
"""Why a verifier gave no judgement."""

NO_SCORE = Score(0.0, False)
"""What a completion gets whose verifier gave no judgement."""


class ScorerUnavailableError(RuntimeError):
    """There is nothing to score with: it did not start, or has been closed."""


class Scorer(Protocol):
    """Judges the completions of a row, under a time limit for each."""

    async def score(self, row: Row, completions: Sequence[str]) -> list[Score]:
        """One score per completion, in order; NO_SCORE, counted in ``errors``, where the verifier
        hung, crashed, ran out of memory or raised. Raises ScorerUnavailableError.
        """
        ...

    @property
    def errors(self) -> Mapping[Reason, int]:
        """Completions without a judgement so far, by reason; every reason is there."""
        ...

    async def close(self) -> None:
        """Free everything, within a deadline. Can be called again."""
        ...
