"""The clock of an engine: pure."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.engine.sampling_clock import SamplingClock


@given(st.lists(st.tuples(st.sampled_from(["stop", "go on", "wait"]), st.integers(0, 9))))
def test_it_counts_the_time_in_which_it_was_not_stopped(history: list[tuple[str, int]]) -> None:
    now, sampled, stopped = 100, 100, False
    clock = SamplingClock(lambda: now)
    for what, seconds in history:
        if what == "stop":
            clock.stop()
            stopped = True
        elif what == "go on":
            clock.go_on()
            stopped = False
        now += seconds
        sampled += 0 if stopped else seconds
        assert clock() == sampled
