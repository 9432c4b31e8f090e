"""Treatment of completions that run up to the largest number of tokens.

DAPO, arXiv 2503.14476, section 3.4. A completion that was cut off has no answer to be judged, so
its reward says little of its tokens. NumPy only: the coordinator judges groups by it.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from asyncds.choices.choice import Choice

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class _Overlong(Choice):
    """Treatment that a kind changes: by itself, a completion's length does nothing."""

    def added_reward(self, length: Float, *, max_tokens: int) -> Float:
        """The part added to the verifier's rewards: tokens of each completion [N] -> [N]."""
        return np.zeros(len(length))

    def teaches(self, finished: Bool) -> Bool:
        """Whether completions have a policy loss: whether each ended by itself [N] -> [N]."""
        return np.ones(len(finished), dtype=np.bool_)


class OverlongKeep(_Overlong):
    """Completions that were cut off are rollouts like any other."""

    kind: Literal["keep"] = "keep"


class OverlongMask(_Overlong):
    """Completions that were cut off give no policy loss.

    They count in everything else: their group's statistics, the number of tokens the loss is
    divided by, KL and entropy terms.
    """

    kind: Literal["mask"] = "mask"

    def teaches(self, finished: Bool) -> Bool:
        return finished


class OverlongPenalty(_Overlong):
    """The reward falls linearly over the last tokens before sampling.max_tokens (DAPO, eq. 13).

    ``−weight · clip((L − (max_tokens − buffer_tokens)) / buffer_tokens, 0, 1)`` for L tokens: 0 up
    to the buffer, −weight at its end.
    """

    kind: Literal["penalty"] = "penalty"
    buffer_tokens: int = Field(ge=1)
    """How many tokens before sampling.max_tokens it begins to fall; at most sampling.max_tokens."""
    weight: float = Field(1.0, gt=0)
    """The reward that is lost at sampling.max_tokens."""

    def added_reward(self, length: Float, *, max_tokens: int) -> Float:
        start = max_tokens - self.buffer_tokens
        return -self.weight * ((length - start) / self.buffer_tokens).clip(0, 1)


Overlong = Annotated[OverlongKeep | OverlongMask | OverlongPenalty, Field(discriminator="kind")]
