"""The fork of a process: what must not be taken over by it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Keep what is garbage here from being collected in a process that is forked inside.

    The end of an object, such as a group of gloo's, may wait for a thread of its own, and a forked
    process has no thread but the one that forked.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
