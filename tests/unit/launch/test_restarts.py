"""How often a process may be started again."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.launch.restarts import Restarts


def test_what_is_long_ago_does_not_count() -> None:
    restarts = Restarts(most=2, seconds=10)
    assert [restarts.spend(t) for t in (0, 5, 9, 10.5, 11, 15.5)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert restarts.count(16) == 2


@given(st.integers(0, 5), st.lists(st.floats(0, 7), max_size=50))
def test_never_more_than_so_many_in_any_window(most: int, pauses: list[float]) -> None:
    restarts, now, spent = Restarts(most=most, seconds=10), 0.0, []
    for pause in pauses:
        now += pause
        if restarts.spend(now):
            spent.append(now)
    for end in spent:
        assert sum(end - 10 <= t <= end for t in spent) <= most
