"""The lease book: every step in the life of a lease, in the journal and in memory at once."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Fleet, Member
from asyncds.protocol.codec import GroupArrays
from asyncds.protocol.wire import Cancel, Lease, Message
from asyncds.rollout.attempts import attempt_budgets
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import (
    AttemptOutcome,
    DropReason,
    LeaseEvent,
    LeaseState,
    Purpose,
)
from asyncds.rollout.open_leases import OpenLease, OpenLeases
from asyncds.rollout.scheduler import Scheduler
from services.coordinator.evaluation import EvaluationRound, parts
from services.coordinator.lease_counts import LeaseCounts
from services.coordinator.lease_failures import LeaseFailures
from services.coordinator.lease_for import lease_for, samples_asked
from services.coordinator.prompts import TrainingPrompts

log = logging.getLogger(__name__)


class LeaseBook:
    """The only writer of the table of open leases, and of leases in the journal.

    open: the table. round: the evaluation that is under way. accepting: new work may be handed out.
    counts: what became of leases, for metrics. failures: whether any work can succeed.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        journal: Journal,
        open: OpenLeases,
        scheduler: Scheduler,
        prompts: TrainingPrompts,
        fleet: Fleet,
        send: Callable[[bytes, Message], None],
    ) -> None:
        self._config = config
        self._journal = journal
        self._scheduler = scheduler
        self._prompts = prompts
        self._fleet = fleet
        self._send = send
        self.open = open
        self.round: EvaluationRound | None = None
        self.accepting = True
        self.counts = LeaseCounts()
        self.failures = LeaseFailures()

    def restore(self, step: int) -> None:
        """Begin again at `step` with what the journal holds; who holds a lease keeps it."""
        self._scheduler.restart(step)
        held = {entry.id: entry for entry in self.open.training if entry.holder}
        budgets = attempt_budgets(self._journal.attempts())
        entries = []
        for row in self._journal.leases(LeaseState.LEASED, LeaseState.DELIVERED):
            if (entry := held.get(row.id)) is None:
                entry = OpenLease(
                    id=row.id,
                    purpose=Purpose.TRAIN,
                    row=row.row,
                    attempt=row.attempt,
                    budget=budgets[row.id],
                    delivered=row.state == LeaseState.DELIVERED,
                )
            # How old the tokens of a lease in work are is known when it is delivered, not now.
            entry.oldest = self._scheduler.version if row.oldest is None else row.oldest
            entries.append(entry)
        self.open.restore(entries)

    def rewind(self, step: int) -> None:
        """Make what was trained after a learner's checkpoint available again.

        The learner has begun from the checkpoint of `step`; groups whose samples were deleted are
        lost.
        """
        if not (evicted := self._journal.rewind(step)):
            return
        self.counts.dropped[DropReason.DELETED] += evicted
        self.counts.events[LeaseEvent.EVICTED] += evicted

    # --- evaluation rounds ----------------------------------------------------------------------

    def open_round(
        self, *, version: int, step: int, n_samples: int, rows: Sequence[int]
    ) -> EvaluationRound:
        """Start an evaluation at each temperature: leases for each held-out problem.

        A problem of many samples has several, none of which is larger than a message may be. One
        that was under way when the last process ended, if it is kept (`drop_evaluations`) and asked
        for the same, goes on: what was delivered of it is not sampled again.
        """
        shares = parts(n_samples, max_tokens=self._config.sampling.max_tokens)
        self.failures.expect(Purpose.EVAL, len(rows))
        temperatures = self._config.eval.temperatures
        asked = samples_asked(self._config, version, step, n_samples, len(rows))
        unfinished = self._journal.reopen_evaluations()
        if self._journal.meta("round") != asked or len(unfinished) != len(temperatures):
            self._journal.drop_evaluations()
            self._journal.set_meta("round", asked)
            unfinished = [
                self._journal.add_evaluation(version=version, step=step, n_samples=n_samples)
                for _ in temperatures
            ]
        sampled = {part for id in unfinished for part in self._journal.sampled_parts(id)}
        for evaluation, temperature in zip(unfinished, temperatures, strict=True):
            for row in rows:
                for part in shares:
                    if (evaluation, row, part.start) not in sampled:
                        self._make_part(row, part, evaluation=evaluation, temperature=temperature)
        self.round = EvaluationRound(
            version=version,
            step=step,
            n_samples=n_samples,
            rows=rows,
            temperatures=dict(zip(unfinished, temperatures, strict=True)),
            leases=self.open,
        )
        for id in unfinished:
            for group in self._journal.groups(evaluation=id):
                self.round.keep(group)
        return self.round

    def close_round(self) -> None:
        """End the evaluation round; what is still open of it is cancelled."""
        for entry in self.open:
            if entry.purpose == Purpose.EVAL:
                self._cancel(entry)
                self._settle(entry, "evaluation dropped")
        self.round = None

    # --- from lease to group --------------------------------------------------------------------

    def make(self, row: int, *, attempt: int = 1) -> OpenLease:
        """Make a training lease, which nobody has yet."""
        entry = self.open.make(purpose=Purpose.TRAIN, row=row, attempt=attempt)
        self._made(entry)
        return entry

    def _make_part(self, row: int, part: range, *, evaluation: int, temperature: float) -> None:
        """Make the lease of an evaluation for some of a problem's samples."""
        self._made(
            self.open.make(
                purpose=Purpose.EVAL,
                row=row,
                evaluation=evaluation,
                temperature=temperature,
                first=part.start,
                samples=len(part),
            )
        )

    def _made(self, entry: OpenLease) -> None:
        self._journal.add_lease(
            id=entry.id,
            purpose=entry.purpose,
            row=entry.row,
            attempt=entry.attempt,
            evaluation=entry.evaluation,
            first=entry.first,
        )
        self.counts.events[LeaseEvent.LEASED] += 1

    def hand(self, entry: OpenLease, member: Member, *, version: int, now: float) -> Lease:
        """Give a lease to a generator. version: no token of its group can be older."""
        self._journal.granted(entry.id, member.name, entry.attempt)
        lease = lease_for(entry, config=self._config)
        self.open.hold(entry, lease, holder=member.name, version=version, now=now)
        return lease

    def deliver(
        self, entry: OpenLease, group: GroupArrays, *, payload: bytes, by: Member, attempt: int
    ) -> None:
        """Take a group for a lease; who works on it now may be another, or at another attempt."""
        oldest = int(group.versions.min())
        self._journal.deliver(
            lease=entry.id,
            generator=by.name,
            oldest=oldest,
            newest=int(group.versions.max()),
            n=len(group.lengths),
            n_correct=int(group.correct.sum()),
            reward=float(group.rewards.mean(dtype=np.float64)),
            tokens=len(group.logprobs),
            payload=payload,
        )
        if not entry.in_work(by.name, attempt):
            self._cancel(entry)
        self.counts.events[LeaseEvent.DELIVERED] += 1
        if entry.purpose == Purpose.TRAIN:
            self.counts.tokens += len(group.logprobs)
            self.open.deliver(entry, oldest=oldest)
            return
        self.open.remove(entry)
        if self.round is not None:
            self.round.add(entry, group)

    def retry(
        self,
        entry: OpenLease,
        reason: str,
        *,
        outcome: AttemptOutcome = AttemptOutcome.FAILED,
        permanent: bool = False,
        drop: DropReason = DropReason.FAILED,
        now: float | None = None,
    ) -> None:
        """End an attempt that brought no group.

        drop: what the group is counted as if it was the last. now: where the generator lives, and
        others would fare no better.
        """
        self._journal.add_attempt(
            lease=entry.id,
            attempt=entry.attempt,
            generator=entry.holder,
            outcome=outcome,
            reason=reason,
        )
        entry.budget.record(outcome)
        if now is not None:
            self.failures.attempt(entry, reason, permanent=permanent, now=now)
        if permanent or entry.budget.failures >= self._config.rollout.max_attempts:
            self.failures.given_up(entry)
            self._settle(entry, reason, drop=drop)
            if permanent and entry.purpose is Purpose.EVAL:
                # The other parts have the same prompt.
                for other in self.open.of_problem(entry):
                    self._cancel(other)
                    self._settle(other, reason)
            return
        self.open.try_again(entry)
        self._journal.granted(entry.id, None, entry.attempt)

    def evict(self, entry: OpenLease, reason: DropReason) -> None:
        """Give up a training lease, or its group."""
        self._cancel(entry)
        self.open.remove(entry)
        self._journal.end_lease(entry.id, LeaseState.EVICTED, reason)
        self.counts.dropped[reason] += 1
        self.counts.events[LeaseEvent.EVICTED] += 1

    def select(self) -> list[int] | None:
        """The next batch's leases, if they are there; what became too old is refilled once."""
        selection = self._scheduler.select()
        for entry in selection.evicted:
            self.evict(entry, DropReason.STALE)
            if self._journal.first_attempt(entry.id) == 1:
                self._prompts.once_more(entry.row)
        return None if selection.batch is None else [entry.id for entry in selection.batch]

    # --- generators that are lost, late or not trusted ------------------------------------------

    def reclaim(self, member: Member, outcome: AttemptOutcome) -> None:
        """Have the leases of a generator that died or left wait for another."""
        for entry in self.open.held_by(member.name):
            self.retry(entry, f"its generator {outcome.value}", outcome=outcome)

    def distrust(self, member: Member) -> None:
        """Take everything from a generator that computed with other weights than it should have.

        What it has in work goes to another, and its groups of these attempts are not taken any
        more.
        """
        for entry in self.open.held_by(member.name):
            self._cancel(entry)
            self.retry(entry, "its generator has other weights", outcome=AttemptOutcome.DISTRUSTED)

    def expire(self, now: float) -> None:
        """Take back leases that overran."""
        limit = self._config.rollout.lease_seconds
        for entry in [o for o in self.open if o.holder and now - o.granted > limit]:
            log.warning("%s overran lease %d: %.0f s", entry.holder, entry.id, limit)
            self._cancel(entry)
            self.retry(entry, f"no delivery within {limit:g} s", drop=DropReason.EXPIRED, now=now)

    # --- the end of a run -----------------------------------------------------------------------

    def cancel_all(self) -> None:
        """Stop all work; unfinished training leases wait in the journal for a resumed run."""
        self.accepting = False
        for entry in self.open:
            if not entry.delivered:
                self._cancel(entry)
                self.open.release(entry)

    def end_surplus(self) -> None:
        """All steps are done: what is still open of training is for nobody.

        There is such where a run was resumed for fewer steps than prompts had been drawn for.
        """
        for entry in self.open.training:
            self.evict(entry, DropReason.SURPLUS)

    def _settle(
        self, entry: OpenLease, reason: str, *, drop: DropReason = DropReason.FAILED
    ) -> None:
        """End a lease that has failed."""
        self.open.remove(entry)
        self._journal.end_lease(entry.id, LeaseState.FAILED, reason)
        if entry.purpose == Purpose.TRAIN:
            self.counts.events[LeaseEvent.FAILED] += 1
            self.counts.dropped[drop] += 1
        elif self.round is not None:
            self.round.failed(reason)

    def _cancel(self, entry: OpenLease) -> None:
        member = self._fleet.get(entry.holder) if entry.holder else None
        if member is not None:
            self._send(member.peer, Cancel(leases=[entry.id]))
