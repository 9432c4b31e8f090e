"""The learner's side of a broadcast (the sender is mocked), and what it waits for."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from asyncds.protocol import wire
from asyncds.protocol.codec import pack_shard
from asyncds.protocol.sharding import make_shards
from asyncds.telemetry.traces.traces import Traces
from asyncds.weights.buckets import TensorSpec
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.layout import Layout, fingerprint, unpack_layout
from asyncds.weights.source import Piece
from asyncds.weights.staging import StagedWeights
from services.learner.inbox import BatchLateError, DrainedError, Inbox
from services.learner.publisher import Publisher, PublisherDiedError
from tests.support.otlp_collector import traced
from tests.support.rollout_groups import make_group

WAIT = 10.0


def go(sync: int) -> wire.Go:
    return wire.Go(sync=sync, version=0, rendezvous="", layout="", tensors=b"", checksums=[])


class MockSender:
    def __init__(self) -> None:
        self.rendezvous = 0
        self.sent: list[tuple[int | None, str]] = []
        self.failing = False
        self.error: Exception = TransferFailed("a member is gone")
        self.closed = False

    def new_rendezvous(self) -> str:
        self.rendezvous += 1
        return f"gloo://somewhere/{self.rendezvous}"

    def send(self, staged: StagedWeights, *, rendezvous: str, **_: Any) -> Any:
        if self.failing:
            raise self.error
        self.sent.append((staged.version, rendezvous))
        return type("Result", (), {"seconds": 0.1})()

    def close(self) -> None:
        self.closed = True


class Driver:
    def __init__(self, go_seconds: float = WAIT, traces: Traces | None = None) -> None:
        self.sender, self.said = MockSender(), queue.Queue[wire.Message]()
        self.sealed = queue.Queue[int | None]()
        spec = TensorSpec("w", "float32", (4,))
        self.staged = StagedWeights(specs=[spec], bucket_bytes=64)
        self.publisher = Publisher(
            staged=self.staged,
            sender=self.sender,  # type: ignore[arg-type]
            go_seconds=go_seconds,
            send=self.said.put,
            staged_new=lambda: self.sealed.put(self.staged.version),
            traces=traces or Traces(None, run="r", role="learner", name="l"),
        )

    def stage(self, version: int) -> None:
        assert self.publisher.hold.acquire(timeout=WAIT)
        self.staged.copy([Piece("w", 0, torch.full((4,), float(version)))], version=version)
        self.publisher.hold.release()
        self.publisher.copied(version, probe=np.array([-1.0], np.float32))
        assert self.sealed.get(timeout=WAIT) == version

    def prepare(self, sync: int, epoch: int = 1, *, probe: bool = False, layout: str = "") -> Any:
        self.publisher.receive(
            wire.Prepare(
                sync=sync,
                epoch=epoch,
                rank=0,
                world_size=2,
                probe=probe,
                deadline=1.0,
                layout=layout,
            )
        )
        return self.said.get(timeout=WAIT)

    def go(self, sync: int) -> Any:
        self.publisher.receive(go(sync))
        return self.said.get(timeout=WAIT)


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.publisher.close()
    assert driver.sender.closed


def test_it_sends_what_it_agreed_to(driver: Driver) -> None:
    driver.stage(3)
    agreed = driver.prepare(1, probe=True)
    assert (agreed.sync, agreed.version) == (1, 3)
    layout = unpack_layout(agreed.tensors)
    assert layout == Layout(specs=[TensorSpec("w", "float32", (4,))], bucket_bytes=64)
    assert agreed.checksums == list(driver.staged.checksums) != []
    sent = driver.go(1)
    assert sent.checksums == agreed.checksums
    assert len(sent.probe) == 4
    assert driver.sender.sent == [(3, agreed.rendezvous)]


def test_the_list_of_tensors_travels_once(driver: Driver) -> None:
    driver.stage(3)
    first = driver.prepare(1)
    assert first.layout == fingerprint(first.tensors)
    driver.go(1)
    driver.stage(4)
    again = driver.prepare(2, layout=first.layout)
    assert (again.layout, again.tensors, again.version) == (first.layout, b"", 4)
    other = driver.prepare(3, layout="that of another model")
    assert other.tensors == first.tensors


def test_nothing_is_staged_between_agreement_and_the_end(driver: Driver) -> None:
    driver.stage(3)
    driver.prepare(1)
    assert not driver.publisher.hold.acquire(blocking=False)
    driver.go(1)
    driver.stage(4)  # waits for the broadcast to be over, and no longer
    assert driver.prepare(2).version == 4


def test_what_is_sent_is_traced() -> None:
    with traced("learner") as (traces, collector):
        driver = Driver(traces=traces)
        driver.stage(3)
        for sync, driver.sender.failing in ((1, False), (2, True)):
            driver.prepare(sync)
            driver.go(sync)
        driver.publisher.close()
    [[sent], [failed]] = collector.of("broadcast").values()
    assert (sent.name, sent.attributes["version"], sent.error) == ("send", 3, "")
    assert (failed.name, failed.error) == ("send", "a member is gone")


def test_a_broadcast_called_off_lets_go(driver: Driver) -> None:
    driver.stage(3)
    driver.prepare(1)
    driver.publisher.receive(wire.SyncAborted(sync=1, reason="not all agreed"))
    driver.stage(4)
    assert driver.sender.sent == []


def test_silence_after_agreement_lets_go() -> None:
    driver = Driver(go_seconds=0.05)
    driver.stage(3)
    driver.prepare(1)
    driver.stage(4)
    driver.publisher.close()


def test_another_prepare_replaces_the_one_before(driver: Driver) -> None:
    driver.stage(3)
    driver.prepare(1)
    assert driver.prepare(2).sync == 2
    assert driver.go(2).sync == 2


def test_a_group_is_used_again_within_an_epoch_only(driver: Driver) -> None:
    driver.stage(3)
    first = driver.prepare(1, epoch=1).rendezvous
    driver.go(1)
    assert driver.prepare(2, epoch=1).rendezvous == first
    driver.go(2)
    assert driver.prepare(3, epoch=2).rendezvous != first


@pytest.mark.parametrize("error", [RuntimeError("NCCL error: unhandled"), OSError("no route")])
def test_an_error_of_a_library_is_the_outcome_of_that_transfer(
    driver: Driver, error: Exception
) -> None:
    driver.stage(3)
    driver.prepare(1)
    driver.sender.failing, driver.sender.error = True, error
    failed = driver.go(1)
    assert isinstance(failed, wire.SyncFailed)
    assert str(error) in failed.reason
    driver.sender.failing = False
    assert driver.prepare(2).version == 3
    assert isinstance(driver.go(2), wire.Sent)
    driver.publisher.check()


def test_a_thread_that_died_is_named_whatever_killed_it() -> None:
    driver = Driver()
    driver.stage(3)
    driver.prepare(1)
    driver.sender.failing, driver.sender.error = True, KeyError("a mistake")
    driver.publisher.receive(go(1))
    driver.publisher.close()
    with pytest.raises(PublisherDiedError, match=r"thread died of KeyError\('a mistake'\)"):
        driver.publisher.check()
    assert driver.publisher.hold.acquire(timeout=WAIT), "staging would wait for ever"


def test_a_failed_send_is_said_and_its_group_is_not_used_again(driver: Driver) -> None:
    driver.stage(3)
    first = driver.prepare(1).rendezvous
    driver.sender.failing = True
    failed = driver.go(1)
    assert isinstance(failed, wire.SyncFailed)
    assert "a member is gone" in failed.reason
    driver.sender.failing = False
    assert driver.prepare(2).rendezvous != first
    assert isinstance(driver.go(2), wire.Sent)


def test_without_weights_it_can_not_agree(driver: Driver) -> None:
    assert isinstance(driver.prepare(1), wire.SyncFailed)


def _batch(step: int) -> wire.Batch:
    return pack_shard(make_shards(step, [make_group()], ranks=1, leases=[1], generators=["g"])[0])


def test_the_inbox_asks_until_the_batch_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.learner.inbox.ASK_AGAIN_SECONDS", 0.01)
    inbox, asked = Inbox(), []

    def ask() -> None:
        asked.append(1)
        if len(asked) == 3:
            inbox.receive(_batch(4))  # of an earlier step: a repeated answer
            inbox.receive(_batch(5))

    shard = inbox.wait_batch(5, ask=ask, check=lambda: None, timeout=WAIT)
    assert shard is not None
    assert shard.step == 5


def test_the_inbox_says_when_there_is_no_more() -> None:
    inbox = Inbox()
    inbox.receive(wire.Finish(reason="all steps are done"))
    assert inbox.wait_batch(1, ask=lambda: None, check=lambda: None, timeout=WAIT) is None
    inbox.receive(wire.Drain(reason="the run is over"))
    with pytest.raises(DrainedError, match="the run is over"):
        inbox.wait_batch(1, ask=lambda: None, check=lambda: None, timeout=WAIT)


def test_the_inbox_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.learner.inbox.ASK_AGAIN_SECONDS", 0.01)
    with pytest.raises(BatchLateError, match="batch 1 did not come"):
        Inbox().wait_batch(1, ask=lambda: None, check=lambda: None, timeout=0.05)
    with pytest.raises(BatchLateError):
        Inbox().wait_drain(check=lambda: None, timeout=0.05)
