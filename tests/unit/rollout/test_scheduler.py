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

from asyncds.rollout.lifecycle import OpenState, Purpose
from asyncds.rollout.open_leases import OpenLease, OpenLeases
from asyncds.rollout.scheduler import Scheduler
from tests.support.leases import wire_lease

LEASED, WAITING, DELIVERED = OpenState.LEASED, OpenState.WAITING, OpenState.DELIVERED


class Book:
    """A scheduler and its table. Leases go by their ids, which begin at `first`."""

    def __init__(self, *, first: int = 1, **changes: int) -> None:
        settings = {
            "groups_per_step": 2,
            "target_lag": 1,
            "max_lag": 2,
            "window": 4,
            "publish_every": 1,
            "total_steps": 10,
        }
        self.leases = OpenLeases(next_id=first)
        self.scheduler = Scheduler(leases=self.leases, **settings | changes)

    def add(self, state: OpenState, oldest: int = 0) -> int:
        entry = self.leases.make(purpose=Purpose.TRAIN, row=0)
        if state is not WAITING:
            self.lease(entry.id, oldest)
        if state is DELIVERED:
            self.deliver(entry.id, oldest)
        return entry.id

    def entry(self, id: int) -> OpenLease:
        entry = self.leases.get(id)
        assert entry is not None
        return entry

    def lease(self, id: int, version: int) -> None:
        self.leases.hold(self.entry(id), wire_lease(id), holder="g", version=version, now=0.0)

    def deliver(self, id: int, oldest: int) -> None:
        self.leases.deliver(self.entry(id), oldest=oldest)

    def drop(self, id: int) -> None:
        self.leases.remove(self.entry(id))

    def waiting(self) -> list[int]:
        return ids(self.leases.waiting(Purpose.TRAIN))

    def select(self) -> tuple[list[int] | None, list[int]]:
        """The batch, and what was evicted."""
        selection = self.scheduler.select()
        batch = selection.batch
        return None if batch is None else ids(batch), ids(selection.evicted)

    def batch(self) -> list[int] | None:
        return self.select()[0]

    def restore(self, step: int, leases: list[tuple[int, OpenState, int]]) -> None:
        self.scheduler.restart(step)
        entries = []
        for id, state, oldest in leases:
            entry = OpenLease(id=id, purpose=Purpose.TRAIN, row=0, oldest=oldest)
            entry.delivered = state is DELIVERED
            entries.append(entry)
        self.leases.restore(entries)
        for id, state, oldest in leases:
            if state is LEASED:
                self.lease(id, oldest)


def ids(leases: list[OpenLease]) -> list[int]:
    return [lease.id for lease in leases]


def test_settings_that_would_deadlock_are_refused() -> None:
    with pytest.raises(ValueError, match="target_lag 3"):
        Book(target_lag=3)
    with pytest.raises(ValueError, match="window 1"):
        Book(window=1)


def test_synchronous_training_admits_one_batch_of_the_newest_weights() -> None:
    s = Book(target_lag=0, max_lag=0)
    assert s.scheduler.admissible(0) == 2
    s.add(LEASED)
    s.add(LEASED)
    assert s.scheduler.admissible(0) == 0
    s.deliver(2, 0)
    assert s.batch() is None
    s.deliver(1, 0)
    assert s.batch() == [1, 2]
    assert (s.scheduler.admissible(0), s.scheduler.admissible(1)) == (0, 2)


def test_a_published_version_lasts_for_several_steps() -> None:
    s = Book(target_lag=0, max_lag=0, publish_every=3)
    assert s.scheduler.admissible(0) == 6
    assert [s.scheduler.version_at(i) for i in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_the_end_of_the_run_bounds_admission() -> None:
    s = Book(total_steps=1)
    assert s.scheduler.admissible(0) == 2
    s.add(DELIVERED)
    s.add(DELIVERED)
    s.add(DELIVERED)
    s.add(DELIVERED)
    assert s.batch() == [1, 2]
    assert s.batch() is None


def test_a_straggler_is_passed_by_a_window_and_no_more() -> None:
    s = Book(max_lag=9, target_lag=9)
    s.add(LEASED)
    for _ in range(2, 9):
        s.add(DELIVERED)
    assert s.batch() == [2, 3]
    assert s.batch() is None, "4 is the window's last place"
    assert ids(s.scheduler.blockers()) == [1]
    s.deliver(1, 0)
    assert s.batch() == [1, 4]
    assert s.batch() == [5, 6]


@pytest.mark.parametrize("window", [2, 3, 4])
def test_dropped_leases_leave_no_hole_that_blocks(window: int) -> None:
    s = Book(window=window)
    for id in (1, 2, 3, 4):
        s.add(DELIVERED if id in (1, 4) else LEASED)
    s.drop(2)
    s.drop(3)
    assert s.batch() == [1, 4]


def test_a_window_of_less_than_two_batches_moves_on_after_a_straggler() -> None:
    s = Book(first=0, groups_per_step=3, window=4)
    for id in range(6):
        s.add(LEASED if id == 0 else DELIVERED)
    assert s.batch() == [1, 2, 3]
    s.deliver(0, 0)
    assert s.batch() == [0, 4, 5]


def test_what_is_too_old_is_evicted_whatever_its_state() -> None:
    s = Book(max_lag=1, first=5)
    s.restore(2, [(1, LEASED, 0), (2, DELIVERED, 0), (3, DELIVERED, 1), (4, WAITING, 0)])
    s.add(DELIVERED, 2)
    assert s.select() == ([3, 5], [1, 2])
    assert s.waiting() == [4]
    assert s.leases.get(1) is None


def test_a_waiting_lease_starts_only_on_weights_that_are_new_enough() -> None:
    s = Book(max_lag=1)
    s.restore(3, [(1, WAITING, 0)])
    assert s.waiting() == [1]
    assert not s.scheduler.restartable(1)
    assert s.scheduler.restartable(2)


@pytest.mark.parametrize("target_lag", [0, 1, 3])
def test_held_groups_are_as_old_as_the_target_however_fast_they_come(target_lag: int) -> None:
    s = Book(target_lag=target_lag, max_lag=target_lag, hold=True, first=0)
    born: dict[int, int] = {}
    lags = []
    while s.scheduler.step < 10:
        version = s.scheduler.step
        while s.scheduler.admissible(version):
            born[s.add(DELIVERED, version)] = version
        batch = s.batch()
        assert batch is not None
        lags.append({version - born[i] for i in batch})
    assert lags == [{min(step, target_lag)} for step in range(10)]


@dataclass
class Shadow:
    """What the machine knows of a lease. floor: its tokens' oldest version can't be below."""

    state: OpenState
    floor: int
    oldest: int | None = None
    passed: set[int] = field(default_factory=set)
    """Younger leases trained while this one was not delivered."""


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
        self.book = Book(
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
        self.leases: dict[int, Shadow] = {}
        self.next_id = 1
        self.lost = 0
        self.trained = 0

    @property
    def learner_version(self) -> int:
        return self.trained // self.publish_every

    def _with(self, state: OpenState) -> list[int]:
        return [i for i, t in self.leases.items() if t.state is state]

    @rule(i=st.integers(0, 2))
    def update_generator(self, i: int) -> None:
        self.versions[i % len(self.versions)] = self.learner_version

    @rule(i=st.integers(0, 2), most=st.integers(1, 16))
    def grant(self, i: int, most: int) -> None:
        version = self.versions[i % len(self.versions)]
        for _ in range(most):
            waiting = self.book.waiting()
            assert waiting == self._with(WAITING)
            if waiting and self.book.scheduler.restartable(version):
                assert self.learner_version - version <= self.max_lag
                self.book.lease(waiting[0], version)
                self.leases[waiting[0]].state = LEASED
                self.leases[waiting[0]].floor = version
            elif self.book.scheduler.admissible(version):
                assert self.book.add(LEASED, version) == self.next_id
                self.leases[self.next_id] = Shadow(LEASED, version)
                self.next_id += 1
                if self.max_lag == 0:
                    assert version == self.learner_version

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Some leases arrive; late, perhaps, from a generator that had lost them."""
        if ids := self._undelivered():
            late = data.draw(st.sets(st.sampled_from(ids), max_size=2))
            if data.draw(st.integers(0, 3)):
                late.add(min(ids))  # mostly the same straggler, turn after turn
            newer = data.draw(st.booleans())
            for lease in set(ids) - late:
                floor = self.leases[lease].floor
                self._deliver(lease, self.learner_version if newer else floor)

    def _deliver(self, lease: int, oldest: int) -> None:
        self.book.deliver(lease, oldest)
        self.leases[lease].state = DELIVERED
        self.leases[lease].oldest = oldest

    @rule(data=st.data())
    def lose_generator(self, data: st.DataObject) -> None:
        if ids := self._with(LEASED):
            lease = data.draw(st.sampled_from(ids))
            self.book.leases.release(self.book.entry(lease))
            self.leases[lease].state = WAITING

    @rule(data=st.data())
    def fail_for_good(self, data: st.DataObject) -> None:
        if ids := self._with(LEASED) + self._with(WAITING):
            lease = data.draw(st.sampled_from(ids))
            self.book.drop(lease)
            del self.leases[lease]
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
        for lease in self._with(LEASED):
            self.leases[lease].state = WAITING
        # Places begin anew, so what passed a straggler before is not remembered.
        for lease in self.leases.values():
            lease.passed.clear()
        self.book.restore(
            self.trained, [(i, t.state, t.oldest or t.floor) for i, t in self.leases.items()]
        )

    def _select(self) -> bool:
        batch, evicted = self.book.select()
        for lease in evicted:
            shadow = self.leases.pop(lease)
            age = shadow.floor if shadow.oldest is None else shadow.oldest
            assert shadow.state is not WAITING
            assert self.learner_version - age > self.max_lag
            self.lost += 1
        if batch is None:
            return False
        ahead = min(self.held, self.total - self.trained)
        assert len(self._with(DELIVERED)) >= ahead * self.per_step
        assert len(batch) == self.per_step
        assert batch == sorted(batch)
        for lease in batch:
            shadow = self.leases.pop(lease)
            assert shadow.state is DELIVERED
            assert shadow.oldest is not None
            lag = self.learner_version - shadow.oldest
            assert 0 <= lag <= self.max_lag
        for id, shadow in self.leases.items():
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
        if not hasattr(self, "book"):
            return
        assert self.book.scheduler.step == self.trained
        assert self.book.leases.outstanding == len(self.leases)
        bound = (self.target_lag + 1) * self.per_step * self.publish_every
        assert self.book.leases.outstanding <= bound
        needed = self.total * self.per_step
        assert self.next_id - 1 - self.lost <= needed
        if self.target_lag == 0 and self.publish_every == 1:
            assert all(t.floor <= self.learner_version for t in self.leases.values())
        for state in OpenState:
            assert self.book.leases.count(state) == len(self._with(state))

    def teardown(self) -> None:
        """From any state, a fleet that does its work reaches the last step."""
        if not hasattr(self, "book"):
            return
        while self.trained < self.total:
            for _ in range(2):  # the second round is for what the first one evicted
                self.versions = [self.learner_version]
                self.grant(0, 60)
                for lease in self._undelivered():
                    if self.leases[lease].state is LEASED:
                        floor = self.leases[lease].floor
                        self._deliver(lease, max(floor, 0))
                if self._select():
                    break
            else:
                raise AssertionError(f"no batch {self.trained}: blockers remain")
        assert self.book.scheduler.admissible(self.learner_version) == 0
        assert not self._select_after_the_end()

    def _select_after_the_end(self) -> bool:
        return self.book.batch() is not None


def test_whatever_happens_the_rule_holds() -> None:
    run_state_machine_as_test(
        Run, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
