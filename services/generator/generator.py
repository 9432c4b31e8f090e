"""A generator: works on leases, keeps what it made until it is acknowledged, takes new weights."""

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from asyncds.engine.generation import GenerationEngine
from asyncds.protocol.batch import Int32
from asyncds.protocol.wire import (
    Ack,
    Applied,
    Cancel,
    Delivered,
    Drain,
    FromCoordinator,
    GeneratorHeartbeat,
    Go,
    Grant,
    Lease,
    LeaseFailed,
    Prepare,
    Prepared,
    SyncAborted,
    SyncFailed,
    Welcome,
)
from asyncds.scoring.scorer import Reason, Scorer
from asyncds.tasks.base import Task
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.traces.spans import attempt_key
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.link import Link
from asyncds.weights.communicator import TransferFailed
from services.generator.work import LeaseError, fulfil

log = logging.getLogger(__name__)

RESEND_SECONDS = 5.0
"""How often an unacknowledged group is sent again."""
CHORE_SECONDS = 1.0
"""How often the engine and the link are looked after, whether messages come or not."""
RATE_SECONDS = 5.0
"""Over how long tokens per second are averaged."""
PROBE_SECONDS = 60.0
"""Deadline of the probe."""


@dataclass(kw_only=True)
class Unacknowledged:
    """What became of a lease. sent: when it was last, by the monotonic clock. since: when it first
    was, in nanoseconds since 1970."""

    message: Delivered | LeaseFailed
    sent: float
    sends: int = 1
    since: int = field(default_factory=time.time_ns)


class Generator:
    """Runs in one event loop. Messages come in through `receive`, in any thread's call order."""

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        scorer: Scorer,
        task: Task,
        tokenizer: Any,
        probe: Int32,
        max_model_len: int,
        incarnation: str,
        metrics: Metrics,
        traces: Traces,
        version: int = -1,
    ) -> None:
        """probe: its tokens, int32. version: of the engine's weights, if they are to be served;
        -1: those of a learner are awaited. incarnation: of this generator, so that what the engine
        has cached for another is never used."""
        self._engine = engine
        self._scorer = scorer
        self._task = task
        self._tokenizer = tokenizer
        self._probe = probe
        self._max_model_len = max_model_len
        self._metrics = metrics
        self._traces = traces
        self._work: dict[int, asyncio.Task[None]] = {}
        self._unacknowledged: dict[int, Unacknowledged] = {}
        self._prepared: Prepare | None = None
        self._update: asyncio.Task[None] | None = None
        self._incarnation = incarnation
        self._salt = incarnation
        self._inbox: asyncio.Queue[FromCoordinator] = asyncio.Queue()
        self._tokens: deque[tuple[float, int]] = deque()
        self._sampled = 0
        self._score_errors: dict[Reason, int] = {}
        self._pause_seconds = 0.0
        self._started = time.monotonic()
        self._version = version
        self._failure = ""
        self._link: Link | None = None

    # --- state for the coordinator --------------------------------------------------------------

    @property
    def leases(self) -> list[int]:
        """Leases worked on, or finished and not acknowledged."""
        return [*self._work, *self._unacknowledged]

    def heartbeat(self) -> GeneratorHeartbeat:
        """Called by the link's thread; reads only."""
        stats = self._engine.stats()
        return GeneratorHeartbeat(
            version=self._version,
            leases=self.leases,
            stats={
                "tokens": float(self._sampled),
                "tokens_per_second": self._rate(),
                "running": float(stats.running),
                "waiting": float(stats.waiting),
                "kv_use": stats.kv_cache_usage,
                "pause_seconds": self._pause_seconds,
                "seconds": time.monotonic() - self._started,
            },
        )

    def state(self) -> dict[str, Any]:
        """What it is doing, for people; called by the link's thread, reads only."""
        return {
            "version": self._version,
            "failure": self._failure,
            "working on": list(self._work),
            "not acknowledged": list(self._unacknowledged),
            "agreed to": None if self._prepared is None else self._prepared.sync,
            "updating": self._update is not None and not self._update.done(),
            "engine": asdict(self._engine.stats()),
        }

    def not_ready(self) -> str:
        """Why it serves nothing, or ""."""
        if self._version < 0:
            return "no weights from the learner yet"
        return self._failure

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message; in the event loop's thread."""
        self._inbox.put_nowait(message)

    # --- the loop -------------------------------------------------------------------------------

    async def run(self, link: Link) -> str:
        """Serve until told to leave; returns the reason.

        Raises LinkLostError, RefusedError, GivenUpError and EngineDeadError.
        """
        self._link = link
        chores_at = 0.0
        while True:
            if time.monotonic() >= chores_at:
                link.check()
                await self._engine.health()
                self._resend(older_than=RESEND_SECONDS)
                self._sample_metrics()
                chores_at = time.monotonic() + CHORE_SECONDS
            try:
                async with asyncio.timeout(CHORE_SECONDS):
                    message = await self._inbox.get()
            except TimeoutError:
                continue
            match message:
                case Drain(reason=reason):
                    return reason
                case Grant(leases=leases):
                    for lease in leases:
                        self._begin(lease)
                case Ack(leases=leases):
                    for id in leases:
                        self._acknowledged(id)
                case Cancel(leases=leases):
                    for id in leases:
                        self._cancel(id)
                case Welcome():
                    self._resend(older_than=0.0)
                case Prepare():
                    self._prepare(message)
                case Go():
                    self._go(message)
                case SyncAborted(sync=sync, reason=reason):
                    log.warning("broadcast %d was called off: %s", sync, reason)
                    self._prepared = None

    async def abandon(self) -> list[int]:
        """Stop all work, so that nothing of it goes on in the engine; returns the leases that are
        handed back. An update under way is waited for: it has a deadline."""
        work = dict(self._work)
        for id in work:
            self._cancel(id)
        under_way = [*work.values(), *([self._update] if self._update is not None else [])]
        if under_way:
            await asyncio.wait(under_way)
        return list(work)

    # --- leases ---------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> None:
        if lease.id in self._work:
            return
        if lease.id in self._unacknowledged:
            self._resend(older_than=0.0)
            return
        self._work[lease.id] = asyncio.create_task(self._serve(lease))

    async def _serve(self, lease: Lease) -> None:
        outcome: Delivered | LeaseFailed
        try:
            outcome = await fulfil(
                lease,
                task=self._task,
                tokenizer=self._tokenizer,
                engine=self._engine,
                scorer=self._scorer,
                max_model_len=self._max_model_len,
                cache_salt=lambda: self._salt,
                trace=self._traces.lease(lease.id),
            )
            self._count(outcome)
        except LeaseError as error:
            outcome = _failed(lease, str(error), permanent=error.permanent)
        except Exception as error:
            log.exception("lease %d failed", lease.id)
            outcome = _failed(lease, repr(error), permanent=False)
        # Order matters: between these two lines nobody may see the lease in neither.
        self._unacknowledged[lease.id] = Unacknowledged(message=outcome, sent=time.monotonic())
        self._work.pop(lease.id, None)
        assert self._link is not None
        self._link.send(outcome)

    def _acknowledged(self, lease: int) -> None:
        done = self._unacknowledged.pop(lease, None)
        if done is not None and (trace := self._traces.lease(lease)):
            trace.span(
                "deliver",
                start=done.since,
                end=time.time_ns(),
                parent=attempt_key(done.message.attempt),
                sends=done.sends,
            )

    def _cancel(self, lease: int) -> None:
        self._unacknowledged.pop(lease, None)
        task = self._work.pop(lease, None)
        if task is not None:
            task.cancel()

    def _resend(self, *, older_than: float) -> None:
        now = time.monotonic()
        assert self._link is not None
        for waiting in list(self._unacknowledged.values()):
            if now - waiting.sent >= older_than:
                waiting.sent = now
                waiting.sends += 1
                self._link.send(waiting.message)

    def _count(self, delivered: Delivered) -> None:
        for reason, n in self._scorer.errors.items():
            self._metrics.counter("score_errors_total", reason=reason).inc(
                n - self._score_errors.get(reason, 0)
            )
        self._score_errors = dict(self._scorer.errors)
        tokens = len(delivered.group.completion_ids) // 4
        self._sampled += tokens
        self._tokens.append((time.monotonic(), tokens))
        m = self._metrics
        m.counter("tokens_total").inc(tokens)
        m.counter("sequences_total").inc(len(delivered.group.lengths) // 4)
        m.histogram("score_seconds").observe(delivered.score_seconds)

    # --- weights --------------------------------------------------------------------------------

    def _prepare(self, prepare: Prepare) -> None:
        assert self._link is not None
        if self._update is not None and not self._update.done():
            self._link.send(
                SyncFailed(sync=prepare.sync, reason="is still busy with an earlier update")
            )
            return
        self._prepared = prepare
        self._link.send(Prepared(sync=prepare.sync))

    def _go(self, go: Go) -> None:
        prepare, self._prepared = self._prepared, None
        if prepare is None or prepare.sync != go.sync:
            log.warning("broadcast %d begins, but was not agreed to; staying out", go.sync)
            return
        self._update = asyncio.create_task(self._apply(prepare, go))

    async def _apply(self, prepare: Prepare, go: Go) -> None:
        assert self._link is not None
        layout = json.loads(go.layout)
        specs = layout["specs"]
        self._salt = f"{self._incarnation}-{go.sync}"
        trace, began = self._traces.broadcast(go.sync), time.time_ns()
        try:
            result = await self._engine.update_weights(
                version=go.version,
                rendezvous=go.rendezvous,
                rank_offset=prepare.rank,
                world_size=prepare.world_size,
                names=[s["name"] for s in specs],
                dtypes=[s["dtype"] for s in specs],
                shapes=[s["shape"] for s in specs],
                bucket_bytes=layout["bucket_bytes"],
                timeout=prepare.deadline,
                expected_checksums=layout["checksums"],
            )
            probe = np.empty(0, np.float32)
            if prepare.probe:
                probe = await self._engine.log_probs(self._probe.tolist(), timeout=PROBE_SECONDS)
        except (TransferFailed, TimeoutError) as error:
            slow = f"no answer to the probe within {PROBE_SECONDS:g} s"
            reason = slow if isinstance(error, TimeoutError) else str(error)
            log.warning("broadcast %d of version %d failed: %s", go.sync, go.version, reason)
            self._failure = f"the update to version {go.version} failed: {reason}"
            if trace is not None:
                trace.span("receive", start=began, end=time.time_ns(), error=reason)
            self._link.send(SyncFailed(sync=go.sync, reason=f"could not receive: {reason}"))
            return
        self._failure = ""
        self._version = go.version
        self._pause_seconds += result.pause_seconds
        m = self._metrics
        m.gauge("policy_version").set(go.version)
        m.counter("pause_seconds_total").inc(result.pause_seconds)
        m.histogram("weight_receive_seconds").observe(result.receive_seconds)
        if trace is not None:
            trace.span(
                "receive",
                start=began,
                end=time.time_ns(),
                version=go.version,
                receive_seconds=result.receive_seconds,
                pause_seconds=result.pause_seconds,
                probe=prepare.probe,
            )
        self._link.send(
            Applied(
                sync=go.sync,
                version=go.version,
                checksums=list(result.checksums),
                probe=probe.astype("<f4").tobytes(),
                pause_seconds=result.pause_seconds,
                receive_seconds=result.receive_seconds,
            )
        )

    # --- numbers --------------------------------------------------------------------------------

    def _rate(self) -> float:
        since = time.monotonic() - RATE_SECONDS
        return sum(n for t, n in list(self._tokens) if t >= since) / RATE_SECONDS

    def _sample_metrics(self) -> None:
        while self._tokens and self._tokens[0][0] < time.monotonic() - RATE_SECONDS:
            self._tokens.popleft()
        m = self._metrics
        m.gauge("running").set(self._engine.stats().running)
        m.gauge("leases").set(len(self._work))
        m.gauge("unacknowledged_groups").set(len(self._unacknowledged))


def _failed(lease: Lease, reason: str, *, permanent: bool) -> LeaseFailed:
    return LeaseFailed(lease=lease.id, attempt=lease.attempt, reason=reason, permanent=permanent)
