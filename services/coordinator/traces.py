"""The coordinator's spans: of leases, out of what the journal has recorded, and of weight syncs."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asyncds.fleet.weight_sync import SyncOutcome
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_events import (
    AttemptEnded,
    GroupDelivered,
    JournalEvent,
    LeaseEnded,
    LeaseGranted,
    LeasesMoved,
)
from asyncds.rollout.lifecycle import LeaseState, Purpose
from asyncds.telemetry.traces.spans import Trace, Value, attempt_key, nanoseconds
from asyncds.telemetry.traces.traces import Traces
from services.coordinator.events import Event, SyncEnded

CANCELLED = "cancelled"
"""The outcome of an attempt that ended because the lease did."""


def open_journal(path: Path, traces: Traces) -> Journal:
    """The run's journal; if there are to be traces, they listen to it. Raises as `Journal`."""
    journal = Journal(path)
    if traces.on:
        journal.listen(LeaseTraces(journal=journal, traces=traces).report)
    return journal


class LeaseTraces:
    """Reports leases as spans.

    The root span of a lease begins when the lease is made and ends with it: committed, evicted or
    failed, for an evaluation delivered. Its times are in the journal, so a coordinator that
    starts again goes on; spans whose beginning only the one before knew are missing.
    """

    def __init__(self, *, journal: Journal, traces: Traces) -> None:
        self._journal = journal
        self._traces = traces
        self._granted: dict[int, int] = {}  # lease: when
        self._available: dict[int, int] = {}  # the same of groups that a rewind gave back
        self._batched: dict[int, int] = {}

    def report(self, events: Iterable[JournalEvent]) -> None:
        """Report what was recorded, in order; all of it is durable."""
        now = time.time_ns()
        for event in events:
            for lease in event.leases if isinstance(event, LeasesMoved) else [event.lease]:
                if (trace := self._traces.lease(lease)) is not None:
                    self._report(trace, lease, event, now)

    def _report(self, trace: Trace, lease: int, event: JournalEvent, now: int) -> None:
        match event:
            case LeaseGranted(at=at):
                self._granted[lease] = at
            case AttemptEnded(generator=generator, outcome=outcome, reason=reason):
                self._attempt(trace, event, generator, outcome, reason)
            case GroupDelivered(holder=holder):
                # A group of an earlier attempt is as good; whoever had the lease meanwhile is told.
                served = holder == event.generator
                self._attempt(trace, event, holder, "delivered" if served else CANCELLED)
                trace.span("journal", start=event.began, end=now)
                if self._journal.lease_story(lease)["purpose"] == Purpose.EVAL:
                    self._end(trace, lease, LeaseState.DELIVERED, now)
            case LeaseEnded(state=state, holder=holder, reason=reason):
                self._attempt(trace, event, holder, CANCELLED, reason)
                self._end(trace, lease, state, now)
            case LeasesMoved(state=LeaseState.BATCHED, step=step, at=at):
                self._buffered(trace, lease, step, at)
            case LeasesMoved(state=LeaseState.CONSUMED, step=step, at=at):
                self._trained(trace, lease, step, at)
            case LeasesMoved(state=LeaseState.COMMITTED, step=step, at=at):
                # The learner saves before it asks for the next batch: this may be the first word
                # of its having trained the last of them.
                self._trained(trace, lease, step - 1, at)
                self._end(trace, lease, LeaseState.COMMITTED, now, checkpoint=step)
            case LeasesMoved(at=at):
                self._available[lease] = at

    def _buffered(self, trace: Trace, lease: int, step: int, at: int) -> None:
        row = self._journal.lease_story(lease)
        since = self._available.pop(lease, nanoseconds(row["delivered"]))
        lag = {} if row["lag"] is None else {"lag": row["lag"]}
        trace.span("buffered", start=since, end=at, step=step, **lag)
        self._batched[lease] = at

    def _trained(self, trace: Trace, lease: int, step: int, at: int) -> None:
        if (since := self._batched.pop(lease, None)) is not None:
            trace.span("batched", start=since, end=at, step=step)

    def _attempt(
        self,
        trace: Trace,
        event: AttemptEnded | GroupDelivered | LeaseEnded,
        generator: str | None,
        outcome: str,
        reason: str = "",
    ) -> None:
        """The attempt of the generator that had the lease, if one had it."""
        began = self._granted.pop(event.lease, None)
        if began is None:
            return
        trace.span(
            "attempt",
            key=attempt_key(event.attempt),
            start=began,
            end=event.at,
            error="" if outcome == CANCELLED else reason,
            attempt=event.attempt,
            generator=generator or "",
            outcome=str(outcome),
            reason=reason,
        )

    def _end(self, trace: Trace, lease: int, state: LeaseState, now: int, **more: Value) -> None:
        """The root span: now all about the lease is known."""
        row: dict[str, Any] = self._journal.lease_story(lease) | more
        created, _ = nanoseconds(row.pop("created")), row.pop("delivered")
        trace.root(
            "lease",
            start=created,
            end=now,
            error=row["reason"] if state == LeaseState.FAILED else "",
            state=str(state),
            **{name: value for name, value in row.items() if value is not None},
        )


def trace_syncs(traces: Traces, events: Iterable[Event]) -> None:
    """Report the weight syncs that are over."""
    for event in events:
        if isinstance(event, SyncEnded):
            _trace_sync(traces, event.outcome, event.now)


def _probe(outcome: SyncOutcome) -> dict[str, float]:
    """Attributes of a weight sync whose probe was judged."""
    if not outcome.distances:
        return {}
    return {"probe_distance": max(outcome.distances.values()), "probe_level": outcome.level}


def _trace_sync(traces: Traces, outcome: SyncOutcome, now: float) -> None:
    """Report a weight sync that is over. now: of the clock that its own times are of."""
    sync = outcome.sync
    trace = traces.broadcast(sync.id)
    if trace is None:
        return
    end = time.time_ns()

    def wall(then: float) -> int:
        return end - nanoseconds(now - then)

    agreed = now if sync.entered is None else sync.entered
    trace.span("prepare", start=wall(sync.started), end=wall(agreed), agreed=sorted(sync.agreed))
    if sync.entered is not None:
        trace.span("transfer", start=wall(agreed), end=end, verified=outcome.verified)
    trace.root(
        "broadcast",
        start=wall(sync.started),
        end=end,
        error="; ".join(f"{name} {reason}" for name, reason in outcome.culprits.items()),
        version=sync.version,
        epoch=sync.epoch,
        members=list(sync.places),
        probed=sorted(sync.probed),
        **_probe(outcome),
        verified=outcome.verified,
    )
