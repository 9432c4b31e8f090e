"""Arrivals: noted until they join, or for an hour, and never without end."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.fleet import arrivals as module
from asyncds.fleet.arrivals import REMEMBERED_SECONDS, Arrival, Arrivals

names = st.sampled_from("abcd")
words = st.lists(st.tuples(st.sampled_from(["said", "joined"]), names, st.floats(0, 5000)))


@given(words)
def test_it_holds_those_that_were_said_lately_and_have_not_joined(
    said: list[tuple[str, str, float]],
) -> None:
    arrivals, expected, now = Arrivals(), dict[str, float](), 0.0
    for what, name, later in said:
        now += later
        if what == "said":
            arrivals.said(name, "loading", now)
            expected = {n: t for n, t in expected.items() if now - t <= REMEMBERED_SECONDS}
            expected[name] = now
        else:
            arrivals.joined(name)
            expected.pop(name, None)
        assert {a.name: a.since for a in arrivals} == expected
        assert arrivals.get(name) == (Arrival(name, "loading", now) if what == "said" else None)


def test_many_do_not_fill_the_memory() -> None:
    arrivals = Arrivals()
    for i in range(module.MOST + 5):
        arrivals.said(str(i), "", 0)
    assert len(list(arrivals)) == module.MOST
