"""The staleness rule, by a machine that does to the scheduler whatever a run could do."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from asyncds.rollout.scheduler import Scheduler, TicketState

LEASED, WAITING, DELIVERED = TicketState.LEASED, TicketState.WAITING, TicketState.DELIVERED


def scheduler(**changes: int) -> Scheduler:
    settings = {
        "groups_per_step": 2,
        "target_lag": 1,
        "max_lag": 2,
        "window": 4,
        "publish_every": 1,
        "total_steps": 10,
    }
    return Scheduler(**settings | changes)


def test_settings_that_would_deadlock_are_refused() -> None:
    with pytest.raises(ValueError, match="target_lag 3"):
        scheduler(target_lag=3)
    with pytest.raises(ValueError, match="window 1"):
        scheduler(window=1)


def test_synchronous_training_admits_one_batch_of_the_newest_weights() -> None:
    s = scheduler(target_lag=0, max_lag=0)
    assert s.admissible(0) == 2
    s.add(1, LEASED)
    s.add(2, LEASED)
    assert s.admissible(0) == 0
    assert s.deliver(2, 0)
    assert s.select().batch is None
    assert s.deliver(1, 0)
    assert s.select().batch == [1, 2]
    assert (s.admissible(0), s.admissible(1)) == (0, 2)


def test_a_published_version_lasts_for_several_steps() -> None:
    s = scheduler(target_lag=0, max_lag=0, publish_every=3)
    assert s.admissible(0) == 6
    assert [s.version_at(i) for i in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_the_end_of_the_run_bounds_admission() -> None:
    s = scheduler(total_steps=1)
    assert s.admissible(0) == 2
    s.add(1, DELIVERED)
    s.add(2, DELIVERED)
    s.add(3, DELIVERED)
    s.add(4, DELIVERED)
    assert s.select().batch == [1, 2]
    assert s.select().batch is None


def test_a_straggler_is_passed_by_a_window_and_no_more() -> None:
    s = scheduler(max_lag=9, target_lag=9)
    s.add(1, LEASED)
    for ticket in range(2, 9):
        s.add(ticket, DELIVERED)
    assert s.select().batch == [2, 3]
    assert s.select().batch is None, "4 is the window's last place"
    assert s.blockers() == [1]
    s.deliver(1, 0)
    assert s.select().batch == [1, 4]
    assert s.select().batch == [5, 6]


@pytest.mark.parametrize("window", [2, 3, 4])
def test_dropped_tickets_leave_no_hole_that_blocks(window: int) -> None:
    s = scheduler(window=window)
    for ticket in (1, 2, 3, 4):
        s.add(ticket, DELIVERED if ticket in (1, 4) else LEASED)
    s.drop(2)
    s.drop(3)
    assert s.select().batch == [1, 4]


def test_a_window_of_less_than_two_batches_moves_on_after_a_straggler() -> None:
    s = scheduler(groups_per_step=3, window=4)
    for ticket in range(6):
        s.add(ticket, LEASED if ticket == 0 else DELIVERED)
    assert s.select().batch == [1, 2, 3]
    s.deliver(0, 0)
    assert s.select().batch == [0, 4, 5]


def test_what_is_too_old_is_evicted_whatever_its_state() -> None:
    s = scheduler(max_lag=1)
    s.restore(2, [(1, LEASED, 0), (2, DELIVERED, 0), (3, DELIVERED, 1), (4, WAITING, 0)])
    s.add(5, DELIVERED, 2)
    selection = s.select()
    assert (selection.evicted, selection.batch) == ([1, 2], [3, 5])
    assert s.waiting() == [4]
    assert not s.deliver(1, 2), "an evicted ticket may still be delivered, to no effect"


def test_a_waiting_ticket_starts_only_on_weights_that_are_new_enough() -> None:
    s = scheduler(max_lag=1)
    s.restore(3, [(1, WAITING, 0)])
    assert s.waiting() == [1]
    assert not s.restartable(1)
    assert s.restartable(2)


def test_ids_ascend() -> None:
    s = scheduler()
    s.add(2, LEASED)
    with pytest.raises(ValueError, match="out of order"):
        s.add(1, LEASED)


@pytest.mark.parametrize("target_lag", [0, 1, 3])
def test_held_groups_are_as_old_as_the_target_however_fast_they_come(target_lag: int) -> None:
    s = scheduler(target_lag=target_lag, max_lag=target_lag, hold=True)
    born: dict[int, int] = {}
    lags = []
    while s.step < 10:
        version = s.step
        while s.admissible(version):
            ticket = len(born)
            born[ticket] = version
            s.add(ticket, LEASED, version)
            s.deliver(ticket, version)
        batch = s.select().batch
        assert batch is not None
        lags.append({version - born[i] for i in batch})
    assert lags == [{min(step, target_lag)} for step in range(10)]


@dataclass
class Shadow:
    """What the machine knows of a ticket. floor: its tokens' oldest version can't be below."""

    state: TicketState
    floor: int
    oldest: int | None = None
    passed: set[int] = field(default_factory=set)
    """Younger tickets trained while this one was not delivered."""


class Run(RuleBasedStateMachine):
    """A fleet with generators on any versions that are not newer than the learner's."""

    @initialize(
        per_step=st.integers(1, 3),
        target_lag=st.integers(0, 3),
        slack=st.integers(0, 2),
        extra_window=st.integers(0, 4),
        publish_every=st.integers(1, 3),
        total_steps=st.integers(3, 12),
        generators=st.integers(1, 3),
        hold=st.booleans(),
    )
    def start(
        self,
        per_step: int,
        target_lag: int,
        slack: int,
        extra_window: int,
        publish_every: int,
        total_steps: int,
        generators: int,
        hold: bool,
    ) -> None:
        self.per_step, self.total, self.publish_every = per_step, total_steps, publish_every
        self.target_lag, self.max_lag = target_lag, target_lag + slack
        self.window = per_step + extra_window
        self.scheduler = Scheduler(
            groups_per_step=per_step,
            target_lag=target_lag,
            max_lag=self.max_lag,
            window=self.window,
            publish_every=publish_every,
            total_steps=total_steps,
            hold=hold,
        )
        self.held = target_lag * publish_every if hold else 0
        self.versions = [0] * generators
        self.tickets: dict[int, Shadow] = {}
        self.next_id = 1
        self.lost = 0
        self.trained = 0

    @property
    def learner_version(self) -> int:
        return self.trained // self.publish_every

    def _with(self, state: TicketState) -> list[int]:
        return [i for i, t in self.tickets.items() if t.state is state]

    @rule(i=st.integers(0, 2))
    def update_generator(self, i: int) -> None:
        self.versions[i % len(self.versions)] = self.learner_version

    @rule(i=st.integers(0, 2), most=st.integers(1, 16))
    def grant(self, i: int, most: int) -> None:
        version = self.versions[i % len(self.versions)]
        for _ in range(most):
            waiting = self.scheduler.waiting()
            assert waiting == self._with(WAITING)
            if waiting and self.scheduler.restartable(version):
                assert self.learner_version - version <= self.max_lag
                self.scheduler.lease(waiting[0], version)
                self.tickets[waiting[0]].state = LEASED
                self.tickets[waiting[0]].floor = version
            elif self.scheduler.admissible(version):
                self.scheduler.add(self.next_id, LEASED, version)
                self.tickets[self.next_id] = Shadow(LEASED, version)
                self.next_id += 1
                if self.max_lag == 0:
                    assert version == self.learner_version

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Some tickets arrive; late, perhaps, from a generator that had lost them."""
        if ids := self._undelivered():
            late = data.draw(st.sets(st.sampled_from(ids), max_size=2))
            if data.draw(st.integers(0, 3)):
                late.add(min(ids))  # mostly the same straggler, turn after turn
            newer = data.draw(st.booleans())
            for ticket in set(ids) - late:
                floor = self.tickets[ticket].floor
                self._deliver(ticket, self.learner_version if newer else floor)

    def _deliver(self, ticket: int, oldest: int) -> None:
        assert self.scheduler.deliver(ticket, oldest)
        self.tickets[ticket].state = DELIVERED
        self.tickets[ticket].oldest = oldest

    @rule(data=st.data())
    def lose_generator(self, data: st.DataObject) -> None:
        if ids := self._with(LEASED):
            ticket = data.draw(st.sampled_from(ids))
            self.scheduler.release(ticket)
            self.tickets[ticket].state = WAITING

    @rule(data=st.data())
    def fail_for_good(self, data: st.DataObject) -> None:
        if ids := self._with(LEASED) + self._with(WAITING):
            ticket = data.draw(st.sampled_from(ids))
            self.scheduler.drop(ticket)
            del self.tickets[ticket]
            self.lost += 1

    @rule()
    def train(self) -> None:
        self._select()

    @rule(old=st.integers(0, 2), most=st.integers(1, 16), data=st.data())
    def turn(self, old: int, most: int, data: st.DataObject) -> None:
        """What happens most of the time, with one generator that may be left behind."""
        for i in range(len(self.versions)):
            if i != old:
                self.update_generator(i)
            self.grant(i, most)
        self.deliver(data)
        self._select()

    @rule()
    def restart(self) -> None:
        """The coordinator reads everything back; nobody holds a lease yet."""
        for ticket in self._with(LEASED):
            self.tickets[ticket].state = WAITING
        # Places begin anew, so what passed a straggler before is not remembered.
        for ticket in self.tickets.values():
            ticket.passed.clear()
        self.scheduler.restore(
            self.trained, [(i, t.state, t.oldest or t.floor) for i, t in self.tickets.items()]
        )

    def _select(self) -> bool:
        selection = self.scheduler.select()
        for ticket in selection.evicted:
            shadow = self.tickets.pop(ticket)
            age = shadow.floor if shadow.oldest is None else shadow.oldest
            assert shadow.state is not WAITING
            assert self.learner_version - age > self.max_lag
            self.lost += 1
        if selection.batch is None:
            return False
        batch = selection.batch
        ahead = min(self.held, self.total - self.trained)
        assert len(self._with(DELIVERED)) >= ahead * self.per_step
        assert len(batch) == self.per_step
        assert batch == sorted(batch)
        for ticket in batch:
            shadow = self.tickets.pop(ticket)
            assert shadow.state is DELIVERED
            assert shadow.oldest is not None
            lag = self.learner_version - shadow.oldest
            assert 0 <= lag <= self.max_lag
        for id, shadow in self.tickets.items():
            if shadow.state is DELIVERED:
                assert id > batch[-1] or id > min(self._undelivered(), default=id)
                continue
            shadow.passed |= {t for t in batch if t > id}
            assert len(shadow.passed) <= self.window - 1
        self.trained += 1
        return True

    def _undelivered(self) -> list[int]:
        return self._with(LEASED) + self._with(WAITING)

    @invariant()
    def in_step(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.scheduler.step == self.trained
        assert self.scheduler.outstanding == len(self.tickets)
        bound = (self.target_lag + 1) * self.per_step * self.publish_every
        assert self.scheduler.outstanding <= bound
        needed = self.total * self.per_step
        assert self.next_id - 1 - self.lost <= needed
        if self.target_lag == 0 and self.publish_every == 1:
            assert all(t.floor <= self.learner_version for t in self.tickets.values())
        for state in TicketState:
            assert self.scheduler.count(state) == len(self._with(state))

    def teardown(self) -> None:
        """From any state, a fleet that does its work reaches the last step."""
        if not hasattr(self, "scheduler"):
            return
        while self.trained < self.total:
            for _ in range(2):  # the second round is for what the first one evicted
                self.versions = [self.learner_version]
                self.grant(0, 60)
                for ticket in self._undelivered():
                    if self.tickets[ticket].state is LEASED:
                        floor = self.tickets[ticket].floor
                        self._deliver(ticket, max(floor, 0))
                if self._select():
                    break
            else:
                raise AssertionError(f"no batch {self.trained}: blockers remain")
        assert self.scheduler.admissible(self.learner_version) == 0
        assert not self._select_after_the_end()

    def _select_after_the_end(self) -> bool:
        return self.scheduler.select().batch is not None


def test_whatever_happens_the_rule_holds() -> None:
    run_state_machine_as_test(
        Run, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
