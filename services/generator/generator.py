"""A generator: works on leases, keeps what it made until it is acknowledged, takes new weights."""

import asyncio
import logging
import time
from dataclasses import asdict
from typing import Any

from asyncds.engine.generation import GenerationEngine
from asyncds.protocol.wire import (
    Ack,
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
    SyncAborted,
    Welcome,
)
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.link import Link
from services.generator.deliveries import Deliveries
from services.generator.throughput import Throughput
from services.generator.weight_updates import WeightUpdates
from services.generator.work import GroupSampler, LeaseError

log = logging.getLogger(__name__)

RESEND_SECONDS = 5.0
"""How often an unacknowledged group is sent again."""
CHORE_SECONDS = 1.0
"""How often the engine and the link are looked after, whether messages come or not."""


class Generator:
    """The loop of a generator, in one event loop; `receive` hands in what the coordinator says."""

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        sampler: GroupSampler,
        updates: WeightUpdates,
        metrics: Metrics,
        traces: Traces,
    ) -> None:
        self._engine = engine
        self._sampler = sampler
        self._updates = updates
        self._metrics = metrics
        self._traces = traces
        self._work: dict[int, asyncio.Task[None]] = {}
        self._deliveries = Deliveries(traces=traces)
        self._throughput = Throughput()
        self._inbox: asyncio.Queue[FromCoordinator] = asyncio.Queue()
        self._started = time.monotonic()

    # --- state for the coordinator --------------------------------------------------------------

    @property
    def leases(self) -> list[int]:
        """Leases worked on, or finished and not acknowledged."""
        return [*self._work, *self._deliveries.leases]

    def heartbeat(self) -> GeneratorHeartbeat:
        """The state that the coordinator goes by; called by the link's thread, reads only."""
        stats = self._engine.stats()
        return GeneratorHeartbeat(
            leases=self.leases,
            stats={
                "tokens": float(self._throughput.total),
                "tokens_per_second": self._throughput.rate(),
                "running": float(stats.running),
                "waiting": float(stats.waiting),
                "kv_use": stats.kv_cache_usage,
                "pause_seconds": self._updates.pause_seconds,
                "seconds": time.monotonic() - self._started,
            },
        )

    def state(self) -> dict[str, Any]:
        """The state of the generator, for people; called by the link's thread, reads only."""
        return {
            "version": self._updates.version,
            "failure": self._updates.failure,
            "working on": list(self._work),
            "not acknowledged": self._deliveries.leases,
            "agreed to": self._updates.agreed,
            "updating": self._updates.busy,
            "engine": asdict(self._engine.stats()),
        }

    def not_ready(self) -> str:
        """Why it serves nothing, or ""."""
        if self._updates.version < 0:
            return "no weights from the learner yet"
        return self._updates.failure

    def receive(self, message: FromCoordinator) -> None:
        """Hand in a message; in the event loop's thread."""
        self._inbox.put_nowait(message)

    # --- the loop -------------------------------------------------------------------------------

    async def run(self, link: Link) -> str:
        """Serve until told to leave; returns the reason.

        Raises LinkLostError, RefusedError, GivenUpError, EngineDeadError, EngineUnusableError.
        """
        chores_at = 0.0
        while True:
            if time.monotonic() >= chores_at:
                link.check()
                await self._engine.health()
                self._updates.check()
                self._deliveries.resend(link, older_than=RESEND_SECONDS)
                self._sample_metrics()
                chores_at = time.monotonic() + CHORE_SECONDS
            try:
                async with asyncio.timeout(CHORE_SECONDS):
                    message = await self._inbox.get()
            except TimeoutError:
                continue
            if isinstance(message, Drain):
                return message.reason
            self._handle(message, link)

    def _handle(self, message: FromCoordinator, link: Link) -> None:
        match message:
            case Grant(leases=leases):
                for lease in leases:
                    self._begin(lease, link)
            case Ack(leases=leases):
                for id in leases:
                    self._deliveries.acknowledged(id)
            case Cancel(leases=leases):
                for id in leases:
                    self._cancel(id)
            case Welcome():
                self._deliveries.resend(link, older_than=0.0)
            case Prepare():
                self._updates.prepare(message, link)
            case Go():
                self._updates.go(message, link)
            case SyncAborted(sync=sync, reason=reason, refused=True):
                self._updates.refused(sync, reason)
            case SyncAborted(sync=sync, reason=reason):
                self._updates.call_off(sync, reason)

    async def abandon(self) -> None:
        """Stop all work, so that nothing of it goes on in the engine.

        An update under way is waited for: it has a deadline.
        """
        work = dict(self._work)
        for id in work:
            self._cancel(id)
        if work:
            await asyncio.wait(work.values())
        await self._updates.over()

    # --- leases ---------------------------------------------------------------------------------

    def _begin(self, lease: Lease, link: Link) -> None:
        if lease.id in self._work:
            return
        if lease.id in self._deliveries:
            self._deliveries.resend(link, older_than=0.0)
            return
        self._work[lease.id] = asyncio.create_task(self._serve(lease, link))

    async def _serve(self, lease: Lease, link: Link) -> None:
        outcome: Delivered | LeaseFailed
        try:
            outcome = await self._sampler.fulfil(lease, trace=self._traces.lease(lease.id))
            self._count(outcome)
        except LeaseError as error:
            outcome = _failed(lease, str(error), permanent=error.permanent)
        except Exception as error:
            log.exception("lease %d failed", lease.id)
            outcome = _failed(lease, repr(error), permanent=False)
        # Order matters: between these two lines nobody may see the lease in neither.
        self._deliveries.keep(outcome)
        self._work.pop(lease.id, None)
        link.send(outcome)

    def _cancel(self, lease: int) -> None:
        self._deliveries.forget(lease)
        task = self._work.pop(lease, None)
        if task is not None:
            task.cancel()

    # --- numbers --------------------------------------------------------------------------------

    def _count(self, delivered: Delivered) -> None:
        tokens = len(delivered.group.logprobs) // 4
        self._throughput.add(tokens)
        self._metrics.counter("tokens_total").inc(tokens)
        self._metrics.counter("sequences_total").inc(len(delivered.group.lengths) // 4)

    def _sample_metrics(self) -> None:
        m = self._metrics
        m.gauge("running").set(self._engine.stats().running)
        m.gauge("leases").set(len(self._work))
        m.gauge("unacknowledged_groups").set(len(self._deliveries.leases))


def _failed(lease: Lease, reason: str, *, permanent: bool) -> LeaseFailed:
    return LeaseFailed(lease=lease.id, attempt=lease.attempt, reason=reason, permanent=permanent)
