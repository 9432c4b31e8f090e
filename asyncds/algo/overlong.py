"""What becomes of completions that run up to the largest number of tokens.

No torch in here: the coordinator, which judges groups by their shaped rewards, computes the same.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", "Tensor", npt.NDArray[np.float64])


@dataclass(frozen=True)
class OverlongMask:
    """Completions that were cut off give no policy loss (DAPO, arXiv 2503.14476, section 3.4).

    A completion that was cut off has no answer to be judged, so its reward says nothing of its
    tokens. Its tokens stay in the denominator of the loss, its reward in its group's statistics.
    """


@dataclass(frozen=True, kw_only=True)
class OverlongPenalty:
    """A reward that falls towards the largest length (DAPO, arXiv 2503.14476, eq. 13).

    ``−weight · clip((L − (max_tokens − buffer_tokens)) / buffer_tokens, 0, 1)`` for L tokens, added
    to the verifier's reward: 0 up to the buffer, −weight at its end.

    Raises ValueError for a buffer outside 1..max_tokens, or a weight that is not positive.
    """

    max_tokens: int
    buffer_tokens: int
    weight: float

    def __post_init__(self) -> None:
        if not 1 <= self.buffer_tokens <= self.max_tokens:
            raise ValueError(
                f"an overlong buffer of {self.buffer_tokens} tokens does not fit into completions "
                f"of at most {self.max_tokens}: choose 1 ≤ buffer_tokens ≤ max_tokens."
            )
        if not self.weight > 0:
            raise ValueError(
                f"overlong weight = {self.weight} would reward length or do nothing: "
                "choose weight > 0."
            )

    def __call__(self, length: Array) -> Array:
        """What is added to the rewards: length float64 [N] -> float64 [N]."""
        start = self.max_tokens - self.buffer_tokens
        return -self.weight * ((length - start) / self.buffer_tokens).clip(0, 1)


Overlong = OverlongMask | OverlongPenalty
