"""What a learner rank waits for, and what ends the wait."""

import signal
import threading

import pytest

from asyncds.protocol import wire
from services.learner.inbox import BatchLateError, Inbox, PreemptedError
from services.process import first_signal

WAIT = 10.0


def test_an_evaluation_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a list: every look at it takes a minute."""
    minutes = iter(range(10_000))
    monkeypatch.setattr("services.learner.inbox.ASK_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr("services.learner.inbox.time.monotonic", lambda: 60.0 * next(minutes))
    inbox, asked = Inbox(), []

    def ask() -> None:
        asked.append(1)
        if len(asked) < 50:
            inbox.receive(wire.LearnerAck(keep=[], evaluating=True))
        inbox.receive(wire.LearnerAck(keep=[], evaluating=False))

    with pytest.raises(BatchLateError):
        inbox.wait_batch(1, ask=ask, check=lambda: None, timeout=600)
    assert 50 < len(asked) < 70, "but what comes after it is"


def test_a_signal_ends_the_wait() -> None:
    inbox = Inbox()

    def check() -> None:
        raise AssertionError("it waited on")

    for _ in range(2):
        with first_signal(inbox.leave):
            signal.raise_signal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="told to leave by SIGTERM"):
        inbox.wait_batch(1, ask=lambda: None, check=check, timeout=WAIT)
    with pytest.raises(PreemptedError, match="told to leave by SIGTERM"):
        inbox.wait_drain(check=check, timeout=WAIT)


def test_a_signal_may_come_in_the_middle_of_the_wait() -> None:
    """It interrupts the thread that holds the queue: nobody may wait for that thread."""
    inbox = Inbox()
    with first_signal(inbox.leave), pytest.raises(PreemptedError, match="SIGINT"):
        inbox.wait_batch(
            1, ask=lambda: _signal_soon(signal.SIGINT), check=lambda: None, timeout=WAIT
        )


def _signal_soon(number: signal.Signals) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.05, signal.pthread_kill, (main, number)).start()


def test_only_the_first_signal_is_taken() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    told: list[str] = []
    with first_signal(told.append):
        signal.raise_signal(signal.SIGTERM)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert told == ["SIGTERM"]
    with first_signal(told.append):
        pass
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
