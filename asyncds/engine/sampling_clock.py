"""The time in which an engine samples."""

import time
from collections.abc import Callable


class SamplingClock:
    """A clock in seconds that can be stopped.

    While an engine is paused for new weights, which may be long in coming, nobody is slow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missed = 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        now = self._clock() if self._stopped is None else self._stopped
        return now - self._missed

    def stop(self) -> None:
        """Stand still, if it does not yet."""
        if self._stopped is None:
            self._stopped = self._clock()

    def go_on(self) -> None:
        """Run from here, if it stands still."""
        if self._stopped is not None:
            self._missed += self._clock() - self._stopped
            self._stopped = None
