"""Messages that wait for a link's thread, which they wake."""

import logging
import os
import threading
from collections import deque

log = logging.getLogger(__name__)


class Outbox:
    """A queue of frames, filled from any thread and emptied by one that sleeps in a poll.

    `readable` is a file descriptor for that poll: it is readable when somebody called `wake`.
    """

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self.readable, self._writable = os.pipe()
        os.set_blocking(self.readable, False)
        os.set_blocking(self._writable, False)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._frames)

    def put(self, frame: bytes) -> None:
        """Queue a frame and wake the thread."""
        self._frames.append(frame)
        self.wake()

    @property
    def first(self) -> bytes:
        """The oldest frame."""
        return self._frames[0]

    def drop_first(self) -> None:
        """Forget the oldest frame, which was sent."""
        self._frames.popleft()

    def wake(self) -> None:
        """Make `readable` readable; after `close` nothing."""
        with self._lock:
            if self._writable < 0:
                return
            try:
                os.write(self._writable, b"\0")
            except BlockingIOError:
                log.debug("the wake-up pipe is full: the thread has been woken already")

    def awake(self) -> None:
        """Make `readable` quiet again."""
        os.read(self.readable, 4096)

    def close(self) -> None:
        """Close the pipe, which nobody may poll any more."""
        with self._lock:
            os.close(self.readable)
            os.close(self._writable)
            self._writable = -1
