"""The level of the probe: how far log-probabilities of one model may lie apart on two engines."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

TIMES_THE_FIRST = 4.0
"""Both engines load the same files before the first weight sync, so that what they differ by then
is rounding alone. It grows as a policy becomes surer of itself; weights that are not the learner's
differ by more."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of a level, mean |Δ log p| in nats.

    first: that holds until the rounding of these engines is known, and always at most. least: below
    which no level falls.
    """

    first: float
    least: float


BOUNDS = {
    "float32": Bounds(first=1e-2, least=1e-3),
    "bfloat16": Bounds(first=0.5, least=0.02),
}


class ProbeLevel:
    """The largest mean |Δ log p| of the probe at which a generator's weights count as verified.

    value: in nats. given: by the configuration, and then it stays; otherwise it comes from the
    dtype until the first weight sync that was verified, and from what was seen there afterwards.
    """

    def __init__(
        self, *, dtype: Literal["float32", "bfloat16"], given: float | None = None
    ) -> None:
        self._bounds = BOUNDS[dtype]
        self._is_set = given is not None
        self.value = self._bounds.first if given is None else given

    def verified(self, distances: Collection[float]) -> None:
        """Take what the probes of a weight sync differed by that was verified ([] is no news)."""
        if self._is_set or not distances:
            return
        usual = TIMES_THE_FIRST * max(distances)
        self.value = min(self._bounds.first, max(self._bounds.least, usual))
        self._is_set = True
