"""How often a process may be started again."""

from collections import deque


class Restarts:
    """Allows at most `most` restarts within any `seconds`.

    So a run may live long, and a process that dies at once is given up soon.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self.most = most
        self._seconds = seconds
        self._times: deque[float] = deque()

    def count(self, now: float) -> int:
        """How many there were within the last `seconds`."""
        while self._times and now - self._times[0] > self._seconds:
            self._times.popleft()
        return len(self._times)

    def spend(self, now: float) -> bool:
        """Start it again: False, and none is counted, if it was done too often."""
        if self.count(now) >= self.most:
            return False
        self._times.append(now)
        return True
