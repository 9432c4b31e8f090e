"""The table of open leases against looking through all of them."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.protocol.wire import Lease
from services.coordinator.open_leases import Open, OpenLeases

HOLDERS = ["a", "b", "c"]
IDS = st.integers(1, 6)
DEEDS = st.one_of(
    st.tuples(st.just("add"), IDS),
    st.tuples(st.just("hold"), IDS, st.sampled_from(HOLDERS), st.integers(1, 4)),
    st.tuples(st.just("release"), IDS),
    st.tuples(st.just("remove"), IDS),
)


def lease(id: int, size: int) -> Lease:
    return Lease(
        id=id,
        purpose="train",
        split="train",
        row=0,
        attempt=1,
        group_size=size,
        seed=0,
        temperature=1.0,
        max_tokens=1,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        straggler_seconds=1.0,
        min_group=1,
    )


@given(st.lists(DEEDS, max_size=40))
def test_it_knows_who_works_on_what(deeds: list[tuple]) -> None:
    table, held = OpenLeases(), {}
    open_: dict[int, Open] = {}
    for deed, id, *rest in deeds:
        entry = open_.get(id)
        if deed == "add" and entry is None:
            open_[id] = Open(id=id, purpose="train", row=0)
            table.add(open_[id])
        elif deed == "hold" and entry is not None:
            holder, size = rest
            table.hold(entry, holder, lease(id, size), 1.0)
            held[id] = (holder, size)
            assert (entry.holder, entry.wire, entry.sent) == (holder, lease(id, size), 1.0)
        elif deed == "release" and entry is not None:
            table.release(entry)
            held.pop(id, None)
            assert (entry.holder, entry.wire) == (None, None)
        elif deed == "remove":
            assert table.remove(id) is open_.pop(id, None)
            held.pop(id, None)
        assert [e.id for e in table] == list(open_)
        for name in HOLDERS:
            mine = [i for i, (holder, _) in held.items() if holder == name]
            assert sorted(e.id for e in table.held_by(name)) == sorted(mine)
            assert table.count(name) == len(mine)
            assert table.load(name) == sum(held[i][1] for i in mine)
