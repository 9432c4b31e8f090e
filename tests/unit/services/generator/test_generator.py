"""The generator's loop, with a mocked engine, scorer and link: what it says and when."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from prometheus_client import generate_latest

from asyncds.engine.generation import Completion, GenerationEngine
from asyncds.protocol import wire
from asyncds.protocol.codec import (
    decode_from_coordinator,
    decode_group,
    encode,
    pack_shard,
    unpack_group,
    unpack_shard,
)
from asyncds.protocol.sharding import make_shards
from asyncds.scoring.scorer import NO_SCORE, GroupScores
from asyncds.tasks.base import Row, Score
from asyncds.tasks.registry import make_task
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.traces.traces import Traces
from asyncds.weights.buckets import TensorSpec
from asyncds.weights.communicator import NotJoined, TransferFailed
from asyncds.weights.layout import Layout, fingerprint
from services.generator import generator as module
from services.generator.generator import Generator
from services.generator.weight_updates import MAX_FAILURES, EngineUnusableError, WeightUpdates
from services.generator.work import GroupSampler
from tests.support.otlp_collector import traced

LEASE = wire.Lease(
    id=7,
    split="train",
    row=0,
    attempt=2,
    group_size=3,
    seed=5,
    temperature=1.0,
    max_tokens=4,
    top_p=1.0,
    top_k=-1,
    min_p=0.0,
    straggler_seconds=0.2,
    min_group=2,
)
PREPARE = wire.Prepare(sync=1, epoch=1, rank=1, world_size=2, probe=True, deadline=1.0)
QUEUE_SECONDS = 1e-6
REPLACE = msgspec.structs.replace
TENSORS = Layout(specs=[TensorSpec("w", "float32", (2,))], bucket_bytes=1).pack()
GO = wire.Go(
    sync=1,
    version=3,
    rendezvous="",
    layout=fingerprint(TENSORS),
    tensors=TENSORS,
    checksums=[1],
)


class MockEngine:
    """Answers at once, but for the sample numbers in `stuck`, which never come. Those in
    `cut_off` reach the largest number of tokens."""

    max_model_len = 8
    weights_valid = True
    cache_salt = ""

    def __init__(self) -> None:
        self.stuck: set[int] = set()
        self.cut_off: set[int] = set()
        self.failure: Exception | None = None
        self.sampling_clock: Callable[[], float] = time.monotonic
        self.seeds: list[int] = []

    async def generate(self, prompt: Any, *, request_id: str, seed: int, **_: Any) -> Completion:
        self.seeds.append(seed)
        sample = int(request_id.rsplit("-", 1)[1])
        if sample in self.stuck:
            await asyncio.Event().wait()
        return Completion(
            token_ids=np.array([1, 2], np.int32),
            logprobs=np.array([-0.5, 1e-7], np.float32),
            versions=np.array([0, 0], np.int32),
            finish_reason="length" if sample in self.cut_off else "stop",
            text="1 + 2",
            queue_seconds=QUEUE_SECONDS,
        )

    async def update_weights(self, *, checksums: list[int], cache_salt: str, **_: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        assert checksums == [1], "it checks before it goes on"
        assert cache_salt != self.cache_salt
        self.cache_salt = cache_salt
        return SimpleNamespace(pause_seconds=0.1, receive_seconds=0.1)

    async def log_probs(self, tokens: list[int], *, timeout: float) -> Any:
        return np.array([-1.0], np.float32)

    async def health(self) -> None:
        """Alive."""

    def stats(self) -> Any:
        return SimpleNamespace(running=0, waiting=0, kv_cache_usage=0.0)


class MockScorer:
    """Judges at once, but for the rows in `broken`: their verifiers raise once `release` is set."""

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.release = asyncio.Event()

    async def score(self, row: Row, completions: Sequence[str]) -> GroupScores:
        if row.index in self.broken:
            await self.release.wait()
            return GroupScores(
                [NO_SCORE] * len(completions), dict.fromkeys(range(len(completions)), "exception")
            )
        return GroupScores([Score(1.0, True, ("a", "b", "c"))] * len(completions), {})

    async def close(self) -> None:
        """Nothing to free."""


class MockLink:
    def __init__(self) -> None:
        self.sent: list[wire.Message] = []
        self.changed = asyncio.Event()

    def send(self, message: wire.Message) -> None:
        self.sent.append(message)
        self.changed.set()

    def check(self) -> None:
        """Never lost."""

    async def said(self, kind: type, n: int = 1) -> list[Any]:
        """Wait until `n` messages of a kind were sent."""
        async with asyncio.timeout(10):
            while len(found := [m for m in self.sent if isinstance(m, kind)]) < n:
                self.changed.clear()
                await self.changed.wait()
        return found


class Driver:
    """A running generator."""

    def __init__(self, traces: Traces | None = None) -> None:
        self.engine, self.link = MockEngine(), MockLink()
        self.scorer, self.metrics = MockScorer(), build_metrics("generator")
        traces = traces or Traces(None, run="r", role="generator", name="g")
        engine = cast(GenerationEngine, self.engine)
        self.generator = Generator(
            engine=engine,
            sampler=GroupSampler(
                engine=engine,
                scorer=self.scorer,
                task=make_task("countdown", n_eval=4),
                tokenizer=SimpleNamespace(
                    encode=lambda text, add_special_tokens: [1, 2, 3],
                    decode=lambda ids, skip_special_tokens: f"prompt of {len(ids)} tokens",
                ),
                metrics=self.metrics,
            ),
            updates=WeightUpdates(
                engine=engine,
                probe=np.arange(3, dtype=np.int32),
                incarnation="first",
                metrics=self.metrics,
                traces=traces,
            ),
            metrics=self.metrics,
            traces=traces,
        )


def serve(scene: Callable[[Driver], Any], *, traces: Traces | None = None) -> None:
    """Run a scene against a generator, then drain it."""

    async def play() -> None:
        driver = Driver(traces)
        running = asyncio.create_task(driver.generator.run(driver.link))  # type: ignore[arg-type]
        await scene(driver)
        driver.generator.receive(wire.Drain(reason="done"))
        assert await running == "done"

    asyncio.run(play())


def test_a_lease_becomes_a_group() -> None:
    async def scene(driver: Driver) -> None:
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        [delivered] = await driver.link.said(wire.Delivered)
        group = unpack_group(delivered.group)
        assert group.lengths.tolist() == [2, 2, 2]
        assert group.logprobs.max() == 0, "rounding above 0 is cut off"
        assert driver.engine.seeds == [5, 6, 7]
        assert delivered.texts == ["prompt of 3 tokens", "1 + 2", "1 + 2", "1 + 2"]

    serve(scene)


def test_errors_are_those_of_the_group_whatever_is_scored_beside_it() -> None:
    async def scene(driver: Driver) -> None:
        broken, clean = REPLACE(LEASE, id=8, row=1), LEASE
        driver.scorer.broken = {broken.row}
        driver.generator.receive(wire.Grant(leases=[broken, clean]))
        await driver.link.said(wire.Delivered)
        driver.scorer.release.set()
        delivered = await driver.link.said(wire.Delivered, n=2)
        assert {d.lease: d.score_errors for d in delivered} == {clean.id: 0, broken.id: 3}
        text = generate_latest(driver.metrics.registry).decode()
        assert 'asyncds_generator_score_errors_total{reason="exception"} 3.0' in text

    serve(scene)


def test_the_learner_knows_which_completions_were_cut_off() -> None:
    """From the engine's word over the wire, the journal's form and the shards of two ranks."""

    async def scene(driver: Driver) -> None:
        driver.engine.cut_off = {1}
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        [delivered] = await driver.link.said(wire.Delivered)
        group = unpack_group(decode_group(encode(delivered.group)))
        for shard in make_shards(0, [group], 2, leases=[7], generators=["g"]):
            batch = decode_from_coordinator(encode(pack_shard(shard)))
            assert isinstance(batch, wire.Batch)
            assert unpack_shard(batch).table.finished.tolist() == [True, False, True]

    serve(scene)


def test_a_group_is_kept_until_it_is_acknowledged() -> None:
    async def scene(driver: Driver) -> None:
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        await driver.link.said(wire.Delivered)
        assert driver.generator.leases == [7]
        driver.generator.receive(wire.Welcome(id="r"))
        await driver.link.said(wire.Delivered, n=2)
        driver.generator.receive(wire.Ack(leases=[7]))
        driver.generator.receive(PREPARE)
        await driver.link.said(wire.Prepared)
        assert driver.generator.leases == []

    serve(scene)


def test_chores_are_done_however_many_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost group is sent again although the loop is never idle."""
    monkeypatch.setattr(module, "RESEND_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHORE_SECONDS", 0.01)

    async def scene(driver: Driver) -> None:
        async def chatter() -> None:
            while True:
                driver.generator.receive(wire.Ack(leases=[]))
                await asyncio.sleep(0)

        talking = asyncio.create_task(chatter())
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        await driver.link.said(wire.Delivered, n=3)
        talking.cancel()

    serve(scene)


def test_survivors_of_a_straggling_group_are_delivered() -> None:
    async def scene(driver: Driver) -> None:
        driver.engine.stuck = {1}
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        [delivered] = await driver.link.said(wire.Delivered)
        assert len(unpack_group(delivered.group).lengths) == 2
        assert delivered.attempt == LEASE.attempt

    serve(scene)


def test_too_few_survivors_fail_the_lease() -> None:
    async def scene(driver: Driver) -> None:
        driver.engine.stuck = {0, 1}
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        [failed] = await driver.link.said(wire.LeaseFailed)
        assert not failed.permanent
        assert "only 1 of 3" in failed.reason
        assert failed.attempt == LEASE.attempt

    serve(scene)


def test_straggling_is_measured_by_the_engines_clock() -> None:
    """It stands still while the engine waits for weights: then nobody is slow."""

    async def scene(driver: Driver) -> None:
        now, looks = 0.0, 0
        looked_often = asyncio.Event()

        def clock() -> float:
            nonlocal looks
            looks += 1
            if looks > 4:
                looked_often.set()
            return now

        driver.engine.stuck = {0, 1, 2}
        driver.engine.sampling_clock = clock
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        async with asyncio.timeout(10):
            await looked_often.wait()
        assert not any(isinstance(m, wire.LeaseFailed) for m in driver.link.sent)
        now = LEASE.straggler_seconds
        await driver.link.said(wire.LeaseFailed)

    serve(scene)


@pytest.mark.parametrize(("row", "max_tokens"), [(10**6, 4), (0, 6)])
def test_hopeless_leases_fail_for_good(row: int, max_tokens: int) -> None:
    from msgspec.structs import replace

    async def scene(driver: Driver) -> None:
        hopeless = replace(LEASE, row=row, max_tokens=max_tokens)
        driver.generator.receive(wire.Grant(leases=[hopeless]))
        [failed] = await driver.link.said(wire.LeaseFailed)
        assert failed.permanent

    serve(scene)


def test_a_cancelled_lease_is_forgotten() -> None:
    async def scene(driver: Driver) -> None:
        driver.engine.stuck = {0, 1, 2}
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        driver.generator.receive(wire.Cancel(leases=[7]))
        driver.generator.receive(PREPARE)
        await driver.link.said(wire.Prepared)
        assert driver.generator.leases == []

    serve(scene)


def test_weights_are_applied_and_reported() -> None:
    async def scene(driver: Driver) -> None:
        assert driver.generator.not_ready()
        driver.generator.receive(PREPARE)
        driver.generator.receive(GO)
        [applied] = await driver.link.said(wire.Applied)
        assert applied.checksums == [1]
        assert len(applied.probe) == 4
        assert driver.metrics.gauge("policy_version")._value.get() == GO.version
        assert not driver.generator.not_ready()

    serve(scene)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [(TransferFailed("broken"), "broken"), (TimeoutError(), "no answer to the probe within 60 s")],
)
def test_a_failed_update_is_said_and_not_ready(failure: Exception, sentence: str) -> None:
    async def scene(driver: Driver) -> None:
        update(driver, 1)
        await driver.link.said(wire.Applied)
        driver.engine.failure, driver.engine.weights_valid = failure, sentence != "broken"
        update(driver, 2)
        [failed] = await driver.link.said(wire.SyncFailed)
        assert sentence in failed.reason
        assert not failed.kept
        assert sentence in driver.generator.not_ready()

    serve(scene)


def test_a_list_of_tensors_is_known_until_another_comes() -> None:
    async def scene(driver: Driver) -> None:
        driver.generator.receive(PREPARE)
        driver.generator.receive(GO)
        await driver.link.said(wire.Applied)
        for sync, layout, outcome in ((2, GO.layout, wire.Applied), (3, "x", wire.SyncFailed)):
            driver.link.sent.clear()
            driver.generator.receive(REPLACE(PREPARE, sync=sync))
            [agreed] = await driver.link.said(wire.Prepared)
            assert agreed.layout == GO.layout
            driver.generator.receive(REPLACE(GO, sync=sync, layout=layout, tensors=b""))
            [over] = await driver.link.said(outcome)
            assert over.sync == sync

    serve(scene)


def test_a_failed_transfer_is_said_and_the_engine_serves_what_it_has() -> None:
    async def scene(driver: Driver) -> None:
        update(driver, 1)
        await driver.link.said(wire.Applied)
        driver.engine.failure, salt = TransferFailed("cut"), driver.engine.cache_salt
        update(driver, 2)
        [failed] = await driver.link.said(wire.SyncFailed)
        assert failed.kept
        assert driver.generator.not_ready() == ""
        assert driver.engine.cache_salt == salt
        driver.engine.failure = None
        update(driver, 3)
        await driver.link.said(wire.Applied, n=2)

    serve(scene)


def update(driver: Driver, sync: int) -> None:
    driver.generator.receive(REPLACE(PREPARE, sync=sync))
    driver.generator.receive(REPLACE(GO, sync=sync))


@pytest.mark.parametrize("joined", [True, False])
def test_an_engine_that_takes_no_update_ends_itself(
    monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    """Not where its group never came about: that is no fault of the engine."""
    monkeypatch.setattr(module, "CHORE_SECONDS", 0.01)

    async def play() -> None:
        driver = Driver()
        driver.engine.failure = TransferFailed("cut") if joined else NotJoined("nobody")
        running = asyncio.create_task(driver.generator.run(driver.link))  # type: ignore[arg-type]
        for sync in range(MAX_FAILURES):
            update(driver, sync)
            await driver.link.said(wire.SyncFailed, n=sync + 1)
        if joined:
            sentence = r"5 updates in a row failed \(the update to version 3 failed: cut\)"
            with pytest.raises(EngineUnusableError, match=sentence):
                await running
        else:
            driver.generator.receive(wire.Drain(reason="done"))
            assert await running == "done"

    asyncio.run(play())


def test_an_engine_that_computes_something_else_after_every_update_ends_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was refused and then computes what the learner does begins anew."""
    monkeypatch.setattr(module, "CHORE_SECONDS", 0.01)

    async def play() -> None:
        driver = Driver()
        running = asyncio.create_task(driver.generator.run(driver.link))  # type: ignore[arg-type]
        verdicts = [True] * (MAX_FAILURES - 1) + [False] + [True] * MAX_FAILURES
        for sync, refused in enumerate(verdicts):
            assert not running.done()
            update(driver, sync)
            await driver.link.said(wire.Applied, n=sync + 1)
            if refused:
                off = wire.SyncAborted(sync=sync, reason="the probe differs", refused=True)
                driver.generator.receive(off)
        sentence = r"5 updates in a row failed \(the weights .* were refused: the probe differs\)"
        with pytest.raises(EngineUnusableError, match=sentence):
            await running

    asyncio.run(play())


def test_an_update_that_ends_by_surprise_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHORE_SECONDS", 0.01)

    async def play() -> None:
        driver = Driver()
        driver.engine.failure = KeyError("a mistake")
        running = asyncio.create_task(driver.generator.run(driver.link))  # type: ignore[arg-type]
        update(driver, 1)
        with pytest.raises(KeyError, match="a mistake"):
            await running

    asyncio.run(play())


def test_nobody_enters_a_broadcast_that_was_called_off() -> None:
    async def scene(driver: Driver) -> None:
        driver.generator.receive(PREPARE)
        driver.generator.receive(wire.SyncAborted(sync=1, reason="somebody did not agree"))
        driver.generator.receive(GO)
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        await driver.link.said(wire.Delivered)
        assert not any(isinstance(m, wire.Applied | wire.SyncFailed) for m in driver.link.sent)

    serve(scene)


def test_a_lease_is_traced_until_it_is_acknowledged() -> None:
    async def scene(driver: Driver) -> None:
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        await driver.link.said(wire.Delivered)
        driver.generator.receive(wire.Welcome(id="r"))
        await driver.link.said(wire.Delivered, n=2)
        driver.generator.receive(wire.Ack(leases=[LEASE.id]))

    with traced("generator") as (traces, collector):
        serve(scene, traces=traces)
    spans = collector.of("lease")[LEASE.id]
    assert [span.name for span in spans] == ["queue", "generate", "score", "deliver"]
    queue, generate, score, deliver = spans
    assert queue.end - queue.start == round(QUEUE_SECONDS * 1e9)
    assert queue.end == generate.start
    assert generate.end <= score.start <= score.end <= deliver.start <= deliver.end
    assert generate.attributes == {"lease": LEASE.id, "completions": 3, "wanted": 3, "tokens": 6}
    assert deliver.attributes["sends"] == 2
    assert len({span.parent for span in spans}) == 1


def test_what_stragglers_leave_of_a_lease_is_traced() -> None:
    async def scene(driver: Driver) -> None:
        driver.engine.stuck = {0, 1}
        driver.generator.receive(wire.Grant(leases=[LEASE]))
        await driver.link.said(wire.LeaseFailed)
        driver.generator.receive(wire.Ack(leases=[LEASE.id]))

    with traced("generator") as (traces, collector):
        serve(scene, traces=traces)
    spans = collector.of("lease")[LEASE.id]
    assert [span.name for span in spans] == ["queue", "generate", "deliver"]
    assert spans[1].attributes["completions"] == 1


def test_updates_are_traced() -> None:
    async def scene(driver: Driver) -> None:
        for sync, failure in enumerate((None, TransferFailed("cut off")), start=1):
            driver.engine.failure = failure
            driver.generator.receive(REPLACE(PREPARE, sync=sync))
            driver.generator.receive(REPLACE(GO, sync=sync))
            await driver.link.said(wire.Applied if failure is None else wire.SyncFailed)

    with traced("generator") as (traces, collector):
        serve(scene, traces=traces)
    broadcasts = collector.of("broadcast")
    assert [span.name for spans in broadcasts.values() for span in spans] == ["receive"] * 2
    assert broadcasts[1][0].attributes["version"] == GO.version
    assert broadcasts[2][0].error == "cut off"
