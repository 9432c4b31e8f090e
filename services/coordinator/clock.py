"""The coordinator's time."""

import time
from collections.abc import Callable


class ListeningClock:
    """Seconds during which the coordinator could have heard anybody.

    Time in which the process was stopped does not count, or the others would seem to have been
    silent, and to have overrun their deadlines, while it was the coordinator that did not listen.
    """

    def __init__(self, *, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        """longest: what two readings may lie apart, in seconds; more does not count."""
        self._longest = longest
        self._clock = clock
        self._read = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        read = self._clock()
        self._seconds += min(read - self._read, self._longest)
        self._read = read
        return self._seconds
