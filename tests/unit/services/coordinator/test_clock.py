"""The coordinator's time stands still while it is stopped."""

from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.clock import ListeningClock


def test_time_in_which_it_was_stopped_does_not_count() -> None:
    readings = iter([100.0, 100.5, 1000.0, 1001.0])
    clock = ListeningClock(longest=2.0, clock=lambda: next(readings))
    assert [clock(), clock(), clock()] == [0.5, 2.5, 3.5]


@given(st.lists(st.floats(0, 2), max_size=50))
def test_while_it_runs_it_is_the_clock(pauses: list[float]) -> None:
    time = [7.0]
    clock = ListeningClock(longest=2.0, clock=lambda: time[0])
    for pause in pauses:
        time[0] += pause
        assert abs(clock() - (time[0] - 7.0)) < 1e-9
