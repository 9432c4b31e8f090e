"""Notices that nothing moves."""


class Watchdog:
    """Notices when nothing moves.

    Told of every movement, it says when there was none for `seconds`, again and again while that
    lasts.
    """

    def __init__(self, *, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._moved = now
        self._barked = now

    def moved(self, now: float) -> None:
        """Something went on."""
        self._moved = self._barked = now

    def still(self, now: float) -> float:
        """Seconds since the last movement."""
        return now - self._moved

    @property
    def has_barked(self) -> bool:
        """Whether it has said so since the last movement."""
        return self._barked > self._moved

    def barks(self, now: float) -> bool:
        """Whether another `seconds` have passed without movement since it was last true."""
        if now - self._barked < self._seconds:
            return False
        self._barked = now
        return True
