"""Tokens that were sampled, and how many a second."""

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 5.0
"""The time that the rate is averaged over."""


class Throughput:
    """Counts tokens. One thread adds; any may read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque()

    def add(self, tokens: int) -> None:
        """Count tokens that are there now; what is older than the window is forgotten."""
        now = self._clock()
        self.total += tokens
        self._recent.append((now, tokens))
        while self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()

    def rate(self) -> float:
        """Tokens per second of the last WINDOW_SECONDS."""
        since = self._clock() - WINDOW_SECONDS
        return sum(n for at, n in list(self._recent) if at >= since) / WINDOW_SECONDS
