"""The table of open leases against looking through all of them."""

from dataclasses import dataclass
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from asyncds.rollout.lifecycle import OpenState, Purpose
from asyncds.rollout.open_leases import OpenLease, OpenLeases
from tests.support.leases import wire_lease

HOLDERS = ["a", "b", "c"]
IDS = st.integers(1, 6)
DEEDS = st.one_of(
    st.tuples(st.just("make"), st.sampled_from(Purpose)),
    st.tuples(st.just("hold"), IDS, st.sampled_from(HOLDERS), st.integers(1, 4)),
    st.tuples(st.just("release"), IDS),
    st.tuples(st.just("try_again"), IDS),
    st.tuples(st.just("deliver"), IDS),
    st.tuples(st.just("remove"), IDS),
    st.tuples(st.just("restore"), st.sets(IDS)),
)


@dataclass
class Shadow:
    """What must be so of a lease."""

    entry: OpenLease
    state: OpenState = OpenState.WAITING
    holder: str | None = None
    size: int = 0
    attempt: int = 1
    since: int = 0
    """When it began to wait."""


@given(st.lists(DEEDS, max_size=40))
def test_it_knows_where_every_lease_stands(deeds: list[tuple]) -> None:
    table, clock, ids = OpenLeases(), count(1), count(1)
    known: dict[int, Shadow] = {}
    for deed, *rest in deeds:
        if deed == "make":
            entry = table.make(purpose=rest[0], row=0)
            assert entry.id == next(ids)
            known[entry.id] = Shadow(entry, since=next(clock))
        elif deed == "restore":
            training = {id: s for id, s in known.items() if s.entry.purpose is Purpose.TRAIN}
            table.restore([s.entry for id, s in reversed(training.items()) if id in rest[0]])
            for id in training.keys() - rest[0]:
                del known[id]
        elif (shadow := known.get(rest[0])) is not None:
            _do(table, deed, shadow, *rest[1:], now=next(clock))
            if deed == "remove" or (deed == "deliver" and shadow.state is not OpenState.DELIVERED):
                del known[rest[0]]
        _compare(table, known)
    assert not table.existed(0)
    assert not table.existed(next(ids))


def _do(table: OpenLeases, deed: str, shadow: Shadow, *rest: object, now: int) -> None:
    entry = shadow.entry
    if shadow.state is OpenState.DELIVERED and deed != "remove":
        return
    if deed == "hold":
        shadow.holder, shadow.size = rest  # type: ignore[assignment]
        shadow.state = OpenState.LEASED
        wire = wire_lease(entry.id, group_size=shadow.size)
        table.hold(entry, wire, holder=str(shadow.holder), version=7, now=float(now))
        assert (entry.wire, entry.sent, entry.oldest) == (wire, now, 7)
    elif deed in ("release", "try_again"):
        getattr(table, deed)(entry)
        shadow.attempt += deed == "try_again"
        if shadow.state is not OpenState.WAITING:
            shadow.since = now
        shadow.state, shadow.holder = OpenState.WAITING, None
        assert entry.wire is None
    elif deed == "deliver" and entry.purpose is Purpose.TRAIN:
        table.deliver(entry, oldest=3)
        shadow.state, shadow.holder = OpenState.DELIVERED, None
        assert entry.oldest == 3
    elif deed in ("deliver", "remove"):
        table.remove(entry)


def _compare(table: OpenLeases, known: dict[int, Shadow]) -> None:
    of = {p: [s for s in known.values() if s.entry.purpose is p] for p in Purpose}
    assert [e.id for e in table.training] == [s.entry.id for s in of[Purpose.TRAIN]]
    assert {e.id for e in table} == set(known)
    assert (table.outstanding, table.evaluating) == tuple(len(of[p]) for p in Purpose)
    places = [e.place for e in table.training]
    assert places == sorted(set(places))
    for id, shadow in known.items():
        entry = table.get(id)
        assert entry is shadow.entry
        assert (entry.state, entry.holder) == (shadow.state, shadow.holder)
        assert entry.attempt == shadow.attempt
        assert (table.undelivered(id) is None) == (shadow.state is OpenState.DELIVERED)
    for state in OpenState:
        assert table.count(state) == sum(s.state is state for s in of[Purpose.TRAIN])
    for purpose, by in ((Purpose.TRAIN, "id"), (Purpose.EVAL, "since")):
        waiting = [s for s in of[purpose] if s.state is OpenState.WAITING]
        waiting.sort(key=lambda s: s.entry.id if by == "id" else s.since)
        assert table.waiting(purpose) == [s.entry for s in waiting]
    for name in HOLDERS:
        mine = [s for s in known.values() if s.holder == name]
        assert sorted(e.id for e in table.held_by(name)) == [s.entry.id for s in mine]
        assert table.leases_of(name) == len(mine)
        assert table.load(name) == sum(s.size for s in mine)
    since = [s.entry.granted for s in known.values() if s.holder]
    assert table.oldest_seconds(100.0) == max((100.0 - t for t in since), default=0.0)
