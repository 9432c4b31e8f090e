"""What a forked process must not take over."""

import gc
import os
import threading

import pytest

from asyncds.engine.forking import garbage_kept


class Held:
    """Ends by waiting for a thread of its own, as a process group of gloo's does."""

    def __init__(self) -> None:
        self.itself = self
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._over.wait)
        self._thread.start()

    def __del__(self) -> None:
        self._over.set()
        if self._thread.ident is not None and os.getpid() != PARENT:
            os._exit(3)  # here it would wait for ever
        self._thread.join()


PARENT = os.getpid()


@pytest.mark.parametrize("kept", [True, False])
def test_a_forked_process_collects_no_garbage_of_its_parent(kept: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        Held()  # garbage at once, in a circle
        if kept:
            with garbage_kept():
                code = _collects()
        else:
            code = _collects()
    finally:
        gc.enable()
        assert gc.collect() > 0, "it is the parent's to collect"
    assert code == (0 if kept else 3)


def _collects() -> int:
    """The exit code of a forked process that collects its garbage."""
    if (pid := os.fork()) == 0:
        gc.collect()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
