"""A value that takes time to make, made in a small share of the time."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Rationed(Generic[T]):
    """A value for each revision, made when it is asked for, once for all who ask, in any thread.

    share: of the time that may be spent on it. The value may be an older one then: threads of one
    process take turns, and the coordinator is not to wait for drawings.
    """

    def __init__(self, make: Callable[[str], T], *, share: float, now: Callable[[], float]) -> None:
        self._make = make
        self._share, self._now = share, now
        self._making = Lock()
        self._made: tuple[str, T] | None = None
        self._rest_until = -float("inf")

    def at(self, revision: str) -> T:
        """The value of a revision, or the last one that was made."""
        with self._making:
            start = self._now()
            if self._made is None or (revision != self._made[0] and start >= self._rest_until):
                self._made = revision, self._make(revision)
                end = self._now()
                self._rest_until = end + (end - start) * (1 / self._share - 1)
            return self._made[1]
