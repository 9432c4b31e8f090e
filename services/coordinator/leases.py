"""The lease book: makes leases, grants them, takes them back, and records what becomes of them."""

import heapq
import logging
from collections import deque
from collections.abc import Callable

import numpy as np

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Fleet, Health, Member
from asyncds.protocol.codec import GroupArrays, ProtocolError, encode
from asyncds.protocol.wire import Ack, Cancel, Delivered, Grant, Lease, LeaseFailed, Message
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import (
    AttemptOutcome,
    DropReason,
    LeaseEvent,
    LeaseState,
    Purpose,
)
from asyncds.rollout.scheduler import Scheduler, TicketState
from services.coordinator.attempts import attempt_budgets
from services.coordinator.dynamic_sampling import DynamicSampling, Verdict
from services.coordinator.evaluation import Due, EvaluationRound
from services.coordinator.group_checks import checked_group
from services.coordinator.lease_counts import LeaseCounts
from services.coordinator.lease_failures import LeaseFailures
from services.coordinator.lease_for import lease_for
from services.coordinator.open_leases import Open, OpenLeases
from services.coordinator.prompts import TrainingPrompts
from services.coordinator.rounds import make_round

log = logging.getLogger(__name__)

REGRANT_SECONDS = 5.0
"""A grant that a generator still does not mention after this long was lost on the way."""


class LeaseBook:
    """Owns every unsettled lease. Training leases are also the scheduler's tickets."""

    def __init__(
        self,
        *,
        config: RunConfig,
        journal: Journal,
        scheduler: Scheduler,
        fleet: Fleet,
        send: Callable[[bytes, Message], None],
        reject: Callable[[bytes, str, float], None],
    ) -> None:
        """reject: gets (peer, what is wrong, now) of every delivery that is not taken."""
        self._config = config
        self._journal = journal
        self._scheduler = scheduler
        self._fleet = fleet
        self._send = send
        self._reject = reject
        self.open = OpenLeases()
        self._dynamic_sampling = DynamicSampling(config=config, journal=journal)
        self._evaluation: deque[int] = deque()
        self._newest = int(journal.meta("newest_version") or -1)
        self._next_id = journal.next_lease_id()
        self._prompts = TrainingPrompts(seed=config.seed, journal=journal)
        self.rows: dict[str, int] = {}
        self.multiplicity: dict[str, list[int]] = {}
        self.vocab_size: int | None = None
        self.round: EvaluationRound | None = None
        self.accepting = True
        self.counts = LeaseCounts()
        self.failures = LeaseFailures()

    def learn_task(self, *, rows: dict[str, int], multiplicity: dict[str, list[int]]) -> None:
        """What a generator knows of the task: rows by split, and how many distinct correct answers
        the first problems of the evaluated split have, by equivalence."""
        if rows != self.rows:
            self.failures.expect(Purpose.TRAIN, rows["train"])
        self.rows, self.multiplicity = rows, multiplicity

    def learn_vocabulary(self, size: int) -> None:
        """The learner's: token ids are below it."""
        self.vocab_size = size

    # --- start ----------------------------------------------------------------------------------

    def restore(self, step: int) -> None:
        """Begin again at `step` with what the journal holds; who holds a lease keeps it."""
        for entry in self.open:
            if entry.purpose == Purpose.TRAIN and not entry.holder:
                self.open.remove(entry.id)
        before = {o.id for o in self.open if o.purpose == Purpose.TRAIN}
        tickets = []
        spent = attempt_budgets(self._journal.attempts())
        for row in self._journal.leases(LeaseState.LEASED, LeaseState.DELIVERED):
            delivered = row.state == LeaseState.DELIVERED
            state = TicketState.DELIVERED if delivered else TicketState.WAITING
            if row.id in before:
                before.remove(row.id)
                state = TicketState.LEASED
            elif not delivered:
                entry = Open(id=row.id, purpose=Purpose.TRAIN, row=row.row, attempt=row.attempt)
                entry.budget = spent[row.id]
                self.open.add(entry)
            # How old the tokens of a lease in work are is known when it is delivered, not now.
            oldest = row.oldest if row.oldest is not None else self._scheduler.version_at(step)
            tickets.append((row.id, state, oldest))
        for id in before:
            self.open.remove(id)
        self._scheduler.restore(step, tickets)

    def open_round(self, *, version: int, step: int, n_samples: int) -> EvaluationRound:
        """Start an evaluation at each temperature: one lease per held-out problem."""
        held_out = self.rows[self._config.eval.split]
        n_problems = min(held_out, self._config.eval.n_problems or held_out)
        self.failures.expect(Purpose.EVAL, n_problems)
        self.round = make_round(
            config=self._config,
            journal=self._journal,
            n_problems=n_problems,
            due=Due(step=step, n_samples=n_samples),
            version=version,
            new=self._evaluate,
        )
        return self.round

    def _evaluate(self, evaluation: int, row: int, temperature: float) -> int:
        entry = self._new(Purpose.EVAL, row, attempt=1, evaluation=evaluation)
        entry.temperature = temperature
        self._evaluation.append(entry.id)
        return entry.id

    def close_round(self) -> None:
        """The round is over; what is still open of it is cancelled."""
        for entry in self.open:
            if entry.purpose == Purpose.EVAL:
                self._cancel(entry)
                self._settle(entry, "evaluation dropped")
        self._evaluation.clear()
        self.round = None

    # --- granting -------------------------------------------------------------------------------

    def grant(self, now: float) -> None:
        """Hand out as much work as the fleet can take and the scheduler admits."""
        if not self.accepting or not self.rows:
            return
        healthy, waiting = self._fleet.healthy(), deque(self._scheduler.waiting())
        if not any(self._has_work(version, waiting) for version in {m.version for m in healthy}):
            return
        grants: dict[str, list[Lease]] = {}
        free = [(self.open.load(m.name) / m.capacity, i) for i, m in enumerate(healthy)]
        heapq.heapify(free)
        while free and free[0][0] < 1:
            _, i = heapq.heappop(free)
            member = healthy[i]
            lease = self._next_for(member, waiting, now)
            if lease is not None:
                heapq.heappush(free, (self.open.load(member.name) / member.capacity, i))
                grants.setdefault(member.name, []).append(lease)
        for member in healthy:
            if member.name in grants:
                self._send(member.peer, Grant(leases=grants[member.name]))

    def _has_work(self, version: int, waiting: deque[int]) -> bool:
        """Whether there may be anything to do for a generator with these weights."""
        return bool(
            self._evaluation
            or (waiting and self._scheduler.restartable(version))
            or self._scheduler.admissible(version)
        )

    def _next_for(self, member: Member, waiting: deque[int], now: float) -> Lease | None:
        """waiting: the scheduler's, oldest first; what is handed out is taken from it."""
        if self._evaluation and self.failures.may_begin(Purpose.EVAL, now):
            return self._hand(self.open[self._evaluation.popleft()], member, now)
        if self.round is not None and self.round.version != member.version:
            return None
        if not self.failures.may_begin(Purpose.TRAIN, now):
            return None
        if waiting and self._scheduler.restartable(member.version):
            self._scheduler.lease(waiting[0], member.version)
            return self._hand(self.open[waiting.popleft()], member, now)
        if self._scheduler.admissible(member.version) <= 0:
            return None
        row, attempt = self._prompts.next(self.rows["train"])
        entry = self._new(Purpose.TRAIN, row, attempt)
        self._scheduler.add(entry.id, TicketState.LEASED, member.version)
        return self._hand(entry, member, now)

    def _new(self, purpose: Purpose, row: int, attempt: int, evaluation: int | None = None) -> Open:
        entry = Open(id=self._next_id, purpose=purpose, row=row, attempt=attempt)
        self._next_id += 1
        self.open.add(entry)
        self._journal.add_lease(
            id=entry.id, purpose=purpose, row=row, attempt=attempt, evaluation=evaluation
        )
        self.counts.events[LeaseEvent.LEASED] += 1
        return entry

    def _hand(self, entry: Open, member: Member, now: float) -> Lease:
        self._journal.granted(entry.id, member.name, entry.attempt)
        samples = None if self.round is None else self.round.n_samples
        lease = lease_for(entry, config=self._config, samples=samples)
        self.open.hold(entry, member.name, lease, now)
        return lease

    # --- what generators say --------------------------------------------------------------------

    def delivered(
        self, member: Member, message: Delivered, now: float, *, unverified: int | None = None
    ) -> Ack | Cancel | None:
        """Journal a group; the acknowledgement must leave after the journal's commit only. None: it
        has tokens by the weights `unverified`; nothing was done, deliver it again later."""
        entry = self.open.get(message.lease)
        if entry is None:
            if 0 < message.lease < self._next_id:
                self.counts.events[LeaseEvent.DUPLICATE] += 1
            else:
                self._reject(member.peer, f"delivers lease {message.lease}, which never was", now)
            return Ack(leases=[message.lease])
        present = self._is_present_attempt(entry, member, message.attempt)
        if not present and not self._journal.was_granted(entry.id, member.name):
            self._reject(member.peer, f"delivers lease {entry.id}, which it never had", now)
            return Cancel(leases=[entry.id])
        outcome = None if present else self._journal.attempt_outcome(entry.id, message.attempt)
        if outcome == AttemptOutcome.DISTRUSTED:
            self._reject(member.peer, f"delivers lease {entry.id}, made by other weights", now)
            return Cancel(leases=[entry.id])
        try:
            group = self._checked(entry, message)
        except ProtocolError as error:
            self._reject(member.peer, f"delivers a bad group for lease {entry.id}: {error}", now)
            if present:
                self._retry(entry, f"malformed: {error}", now=now)
            return Ack(leases=[message.lease])
        if int(group.versions.max()) == unverified:
            return None
        self._journal.deliver(
            lease=entry.id,
            generator=member.name,
            oldest=int(group.versions.min()),
            newest=int(group.versions.max()),
            n=len(group.lengths),
            n_correct=int(group.correct.sum()),
            reward=float(group.rewards.mean(dtype=np.float64)),
            tokens=len(group.completion_ids),
            payload=encode(message.group),
        )
        if not present:
            self._cancel(entry)
        self.open.remove(entry.id)
        self.counts.events[LeaseEvent.DELIVERED] += 1
        self.failures.delivered(entry, message, completions=len(group.lengths), now=now)
        if entry.purpose == Purpose.TRAIN:
            self.counts.tokens += len(group.completion_ids)
            self._admit(entry, group)
        elif self.round is not None and self.round.owns(entry.id):
            self.round.add(entry.id, group)
        return Ack(leases=[message.lease])

    def _admit(self, entry: Open, group: GroupArrays) -> None:
        """Into the pool that batches are chosen from, unless dynamic sampling drops it: then the
        scheduler has room for another."""
        verdict = self._dynamic_sampling.judge(group, step=self._scheduler.step)
        if verdict is Verdict.DROP:
            self.counts.dropped[DropReason.ZERO_SIGNAL] += 1
            self.counts.events[LeaseEvent.EVICTED] += 1
            self._journal.end_lease(entry.id, LeaseState.EVICTED, DropReason.ZERO_SIGNAL)
            self._scheduler.drop(entry.id)
            return
        if verdict is Verdict.EXCUSED:
            self.counts.events[LeaseEvent.KEPT_WITHOUT_SIGNAL] += 1
        self._scheduler.deliver(entry.id, int(group.versions.min()))

    def _checked(self, entry: Open, message: Delivered) -> GroupArrays:
        least, most = 1, self.round.n_samples if self.round is not None else 0
        if entry.purpose == Purpose.TRAIN:
            r = self._config.rollout
            least, most = r.resolved_min_group, r.group_size
        evaluated = self.round is not None and self.round.owns(entry.id)
        return checked_group(
            message.group,
            least=least,
            most=most,
            answers=set(self.multiplicity),
            vocab_size=self.vocab_size,
            only_version=self.round.version if self.round is not None and evaluated else None,
            newest_version=self._newest,
        )

    def expect_version(self, version: int) -> None:
        """Generators may have these weights from now on. Of a learner that went back to a
        checkpoint the versions are lower, while groups of the one before are still on their way."""
        if version > self._newest:
            self._newest = version
            self._journal.set_meta("newest_version", str(version))

    def failed(self, member: Member, message: LeaseFailed, now: float) -> Ack:
        """A generator could not fulfil a lease. Of an earlier attempt that is old news: it was
        counted when the lease was taken back."""
        entry = self.open.get(message.lease)
        if entry is not None and self._is_present_attempt(entry, member, message.attempt):
            log.warning("%s: lease %d failed: %s", member.name, entry.id, message.reason)
            self._retry(entry, message.reason, permanent=message.permanent, now=now)
        return Ack(leases=[message.lease])

    def _is_present_attempt(self, entry: Open, member: Member, attempt: int) -> bool:
        return entry.holder == member.name and entry.attempt == attempt

    def mentioned(self, member: Member, leases: list[int], now: float) -> None:
        """Compare what a generator says it holds with the book; mend lost grants and cancels."""
        said = set(leases)
        lost = [
            o
            for o in self.open.held_by(member.name)
            if o.id not in said and now - o.sent > REGRANT_SECONDS
        ]
        if lost and member.health is Health.HEALTHY:
            for entry in lost:
                entry.sent = now
            self._send(member.peer, Grant(leases=[o.wire for o in lost if o.wire]))
        foreign = said - {o.id for o in self.open.held_by(member.name)}
        if foreign:
            self._send(member.peer, Cancel(leases=sorted(foreign)))

    def reclaim(self, member: Member, outcome: AttemptOutcome) -> None:
        """The generator died or left: its leases wait for another."""
        for entry in self.open.held_by(member.name):
            self._retry(entry, f"its generator {outcome.value}", outcome=outcome)

    def distrust(self, member: Member) -> None:
        """The generator computed with other weights than it should have: what it has in work goes
        to another, and its groups of these attempts are not taken any more."""
        for entry in self.open.held_by(member.name):
            self._cancel(entry)
            self._retry(entry, "its generator has other weights", outcome=AttemptOutcome.DISTRUSTED)

    def adopt(self, member: Member, leases: list[int], now: float) -> None:
        """After the coordinator's restart: the generator goes on with what it still holds."""
        if not self.accepting:
            return
        version = self._scheduler.version_at(self._scheduler.step)
        for entry in map(self.open.get, leases):
            if entry is not None and entry.holder is None and entry.purpose == Purpose.TRAIN:
                self._scheduler.lease(entry.id, version)
                self._hand(entry, member, now)

    # --- time and selection ---------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Take back leases that overran."""
        limit = self._config.rollout.lease_seconds
        for entry in [o for o in self.open if o.holder and now - o.granted > limit]:
            log.warning("%s overran lease %d: %.0f s", entry.holder, entry.id, limit)
            self._cancel(entry)
            self._retry(entry, f"no delivery within {limit:g} s", drop=DropReason.EXPIRED, now=now)

    def select(self) -> list[int] | None:
        """The next batch's leases, if they are there; what became too old is refilled once."""
        selection = self._scheduler.select()
        if selection.evicted:
            rows = {
                r.id: r.row for r in self._journal.leases(LeaseState.LEASED, LeaseState.DELIVERED)
            }
            for lease in selection.evicted:
                self._evict(lease, rows[lease])
        return selection.batch

    def cancel_all(self) -> None:
        """Stop all work; unfinished training leases wait in the journal for a resumed run."""
        self.accepting = False
        for entry in self.open:
            self._cancel(entry)
            self.open.release(entry)
            self._scheduler.release(entry.id)

    def end_surplus(self) -> None:
        """All steps are done: what is still open of training is for nobody. There is such where a
        run was resumed for fewer steps than prompts had been drawn for."""
        for row in self._journal.leases(LeaseState.LEASED, LeaseState.DELIVERED):
            entry = self.open.remove(row.id)
            if entry is not None:
                self._cancel(entry)
            self._scheduler.drop(row.id)
            self._journal.end_lease(row.id, LeaseState.EVICTED, DropReason.SURPLUS)
            self.counts.dropped[DropReason.SURPLUS] += 1
            self.counts.events[LeaseEvent.EVICTED] += 1

    def _evict(self, lease: int, row: int) -> None:
        self.counts.dropped[DropReason.STALE] += 1
        self.counts.events[LeaseEvent.EVICTED] += 1
        entry = self.open.remove(lease)
        if entry is not None:
            self._cancel(entry)
        self._journal.end_lease(lease, LeaseState.EVICTED, DropReason.STALE)
        if self._journal.first_attempt(lease) == 1:
            self._prompts.once_more(row)

    def _retry(
        self,
        entry: Open,
        reason: str,
        *,
        outcome: AttemptOutcome = AttemptOutcome.FAILED,
        permanent: bool = False,
        drop: DropReason = DropReason.FAILED,
        now: float | None = None,
    ) -> None:
        """A try ended without a group. drop: what the group is counted as if it was the last. now:
        where the generator lives, and others would fare no better."""
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
            return
        entry.attempt += 1
        self.open.release(entry)
        self._journal.granted(entry.id, None, entry.attempt)
        if entry.purpose == Purpose.TRAIN:
            self._scheduler.release(entry.id)
        else:
            self._evaluation.append(entry.id)

    def _settle(self, entry: Open, reason: str, *, drop: DropReason = DropReason.FAILED) -> None:
        """The lease has failed."""
        self.open.remove(entry.id)
        self._journal.end_lease(entry.id, LeaseState.FAILED, reason)
        if entry.purpose == Purpose.TRAIN:
            self.counts.events[LeaseEvent.FAILED] += 1
            self.counts.dropped[drop] += 1
            self._scheduler.drop(entry.id)
        elif self.round is not None and self.round.owns(entry.id):
            self.round.give_up(entry.id)

    def _cancel(self, entry: Open) -> None:
        member = self._fleet.get(entry.holder) if entry.holder else None
        if member is not None:
            self._send(member.peer, Cancel(leases=[entry.id]))
