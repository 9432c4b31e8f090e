"""The coordinator's spans: of leases, out of what the journal records, and of broadcasts."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asyncds.fleet.weight_sync import SyncOutcome
from asyncds.rollout.journal import Journal
from asyncds.telemetry.traces.spans import Trace, Value, attempt_key, nanoseconds
from asyncds.telemetry.traces.traces import Traces
from services.coordinator.events import Event, SyncEnded


def open_journal(path: Path, traces: Traces) -> Journal:
    """The run's journal; if there are to be traces, one that reports them. Raises as `Journal`."""
    return TracedJournal(path, traces=traces) if traces.on else Journal(path)


class TracedJournal(Journal):
    """Reports what it records, once that is durable.

    The root span of a lease begins when the lease is made and ends with it: committed, evicted or
    failed, for an evaluation delivered. Its times are in the journal, so a coordinator that
    starts again goes on; spans whose beginning only the one before knew are missing.
    """

    def __init__(self, path: Path, *, traces: Traces) -> None:
        self._traces = traces
        self._granted: dict[int, int] = {}  # lease: when
        self._available: dict[int, int] = {}  # the same of groups that a rewind gave back
        self._batched: dict[int, int] = {}
        self._due: list[tuple[Callable[..., None], int | None, dict[str, Any]]] = []
        """What to report, its end (None: the commit), and the rest of it."""
        super().__init__(path)

    def begin(self) -> None:
        if not self._db.in_transaction:
            self._due.clear()  # of one that was rolled back
        super().begin()

    def commit(self) -> None:
        super().commit()
        now = time.time_ns()
        for report, end, rest in self._due:
            report(end=now if end is None else end, **rest)
        self._due.clear()

    def granted(self, lease: int, generator: str | None, attempt: int) -> None:
        super().granted(lease, generator, attempt)
        if generator is not None and self._traces.lease(lease):
            self._granted[lease] = time.time_ns()

    def add_attempt(
        self, *, lease: int, attempt: int, generator: str | None, outcome: str, reason: str
    ) -> None:
        super().add_attempt(
            lease=lease, attempt=attempt, generator=generator, outcome=outcome, reason=reason
        )
        self._end_attempt(lease, attempt, generator, outcome, reason)

    def deliver(self, *, lease: int, generator: str, **group: Any) -> bool:
        began = time.time_ns()
        if not super().deliver(lease=lease, generator=generator, **group):
            return False
        if trace := self._traces.lease(lease):
            row = self._lease(lease)
            # A group of an earlier attempt is as good; whoever had the lease meanwhile is told so.
            outcome = "delivered" if row["generator"] == generator else "cancelled"
            self._end_attempt(lease, row["attempt"], row["generator"], outcome)
            self._report(trace.span, None, name="journal", start=began)
            if row["purpose"] == "eval":
                self._end(trace, lease, "delivered")
        return True

    def end_lease(self, lease: int, state: str, reason: str) -> None:
        super().end_lease(lease, state, reason)
        if trace := self._traces.lease(lease):
            row = self._lease(lease)
            self._end_attempt(lease, row["attempt"], row["generator"], "cancelled", reason)
            self._end(trace, lease, state)

    def batch(self, step: int, version: int, leases: Iterable[int]) -> None:
        leases = list(leases)
        super().batch(step, version, leases)
        now = time.time_ns()
        for lease in leases:
            if trace := self._traces.lease(lease):
                row = self._lease(lease)
                since = self._available.pop(lease, nanoseconds(row["delivered"]))
                self._report(
                    trace.span, now, name="buffered", start=since, step=step, lag=row["lag"]
                )
                self._batched[lease] = now

    def consume(self, step: int) -> None:
        leases = self._select("step = ? AND state = 'batched'", step)
        super().consume(step)
        for lease in leases:
            if trace := self._traces.lease(lease):
                self._end_batched(trace, lease, step)

    def checkpointed(self, step: int) -> None:
        leases = self._select("state IN ('batched', 'consumed') AND step < ?", step)
        super().checkpointed(step)
        for lease in leases:
            if trace := self._traces.lease(lease):
                # The learner saves before it asks for the next batch: this may be the first word
                # of its having trained the last of them.
                self._end_batched(trace, lease, step - 1)
                self._end(trace, lease, "committed", checkpoint=step)

    def rewind(self, step: int) -> None:
        leases = self._select("step >= ? AND state IN ('batched', 'consumed', 'committed')", step)
        super().rewind(step)
        traced = [lease for lease in leases if self._traces.lease(lease)]
        self._available |= dict.fromkeys(traced, time.time_ns())

    def _report(self, report: Callable[..., None], end: int | None, **rest: Any) -> None:
        self._due.append((report, end, rest))

    def _end_batched(self, trace: Trace, lease: int, step: int) -> None:
        """If it has not ended before."""
        if (since := self._batched.pop(lease, None)) is not None:
            self._report(trace.span, time.time_ns(), name="batched", start=since, step=step)

    def _end_attempt(
        self, lease: int, attempt: int, generator: str | None, outcome: str, reason: str = ""
    ) -> None:
        """Of the generator that had the lease, if one had it."""
        began, trace = self._granted.pop(lease, None), self._traces.lease(lease)
        if began is None or trace is None:
            return
        self._report(
            trace.span,
            time.time_ns(),
            name="attempt",
            key=attempt_key(attempt),
            start=began,
            error="" if outcome == "cancelled" else reason,
            attempt=attempt,
            generator=generator or "",
            outcome=outcome,
            reason=reason,
        )

    def _end(self, trace: Trace, lease: int, state: str, **more: Value) -> None:
        """The root span: now all about the lease is known."""
        row = self._lease(lease) | more
        created, _ = nanoseconds(row.pop("created")), row.pop("delivered")
        self._report(
            trace.root,
            None,
            name="lease",
            start=created,
            error=row["reason"] if state == "failed" else "",
            state=state,
            **{name: value for name, value in row.items() if value is not None},
        )

    def _lease(self, lease: int) -> dict[str, Any]:
        found = self._db.execute(
            "SELECT l.created, l.purpose, l.row, l.attempt, l.generator, l.step, l.reason,"
            " g.delivered, g.oldest, g.newest, g.n AS completions, g.n_correct AS correct,"
            " g.reward, g.tokens, g.lag"
            " FROM leases l LEFT JOIN groups g ON g.lease = l.id WHERE l.id = ?",
            (lease,),
        )
        names = [column[0] for column in found.description]
        return dict(zip(names, found.fetchone(), strict=True))

    def _select(self, where: str, step: int) -> list[int]:
        """Leases; `where` is SQL with one parameter, the step."""
        return [id for (id,) in self._db.execute(f"SELECT id FROM leases WHERE {where}", (step,))]


def trace_syncs(traces: Traces, events: Iterable[Event]) -> None:
    """Report the weight syncs that are over."""
    for event in events:
        if isinstance(event, SyncEnded):
            _trace_sync(traces, event.outcome, event.now)


def _trace_sync(traces: Traces, outcome: SyncOutcome, now: float) -> None:
    """Report a broadcast that is over. now: of the clock that its own times are of."""
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
        verified=outcome.verified,
    )
