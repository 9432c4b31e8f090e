"""Who hangs, by the statuses that the coordinator sends."""

from hypothesis import given
from hypothesis import strategies as st

from asyncds.launch.liveness import LivenessMonitor
from asyncds.protocol.records import LearnerStatus, MemberStatus, RunStatus

SILENT, START = 10.0, 100.0
STARTED = {"coordinator": 0.0, "learner": 0.0, "generator-0": 0.0}


def status(learner: float | None, **generators: float) -> RunStatus:
    """learner, generators: seconds since they were heard of."""
    fleet = [
        MemberStatus(name=n.replace("_", "-"), health="healthy", version=0, last_seen=ago)
        for n, ago in generators.items()
    ]
    return RunStatus(learner=LearnerStatus(last_seen=learner), fleet=fleet)


def silence() -> LivenessMonitor:
    return LivenessMonitor(silent_seconds=SILENT, start_seconds=START)


def test_who_was_heard_of_and_falls_silent_hangs() -> None:
    one = silence()
    assert one.hung(STARTED, status(0.5, generator_0=0.5), 20.0) == {}
    assert one.hung(STARTED, status(10.4, generator_0=0.5), 29.9) == {}
    assert one.hung(STARTED, status(10.6, generator_0=0.5), 30.1).keys() == {"learner"}
    assert one.hung(STARTED, status(0.1, generator_0=11.0), 31.0).keys() == {"generator-0"}


def test_who_starts_has_longer() -> None:
    one = silence()
    assert one.hung(STARTED, status(None), 1.0) == {}
    assert one.hung(STARTED, status(None), 99.0) == {}
    assert one.hung(STARTED, status(None), 101.5).keys() == {"learner", "generator-0"}


def test_what_an_earlier_process_said_does_not_count() -> None:
    """Its last word is older than the present process, which is still starting."""
    one = silence()
    one.hung(STARTED, status(0.0, generator_0=0.0), 20.0)
    again = STARTED | {"learner": 50.0}
    assert one.hung(again, status(40.0, generator_0=0.0), 60.0) == {}
    assert one.hung(again, status(131.0, generator_0=0.0), 151.0).keys() == {"learner"}


def test_a_coordinator_that_does_not_answer_hangs_and_nobody_else() -> None:
    one = silence()
    one.hung(STARTED, status(0.0, generator_0=0.0), 20.0)
    assert one.hung(STARTED, None, 29.0) == {}
    assert one.hung(STARTED, None, 31.0).keys() == {"coordinator"}


def test_time_in_which_nobody_listened_does_not_count() -> None:
    one = silence()
    one.hung(STARTED, status(0.0, generator_0=0.0), 20.0)
    one.listens_again(500.0)
    assert one.hung(STARTED, None, 500.5) == {}
    assert one.hung(STARTED, status(480.5, generator_0=0.1), 501.0) == {}
    assert one.hung(STARTED, status(490.0, generator_0=0.1), 510.5).keys() == {"learner"}


def test_a_coordinator_that_never_answered_has_as_long_as_any_that_starts() -> None:
    one = silence()
    assert one.hung(STARTED, None, 99.0) == {}
    assert one.hung(STARTED, None, 101.0).keys() == {"coordinator"}


def test_silence_before_the_present_coordinator_is_not_held_against_anybody() -> None:
    one = silence()
    one.hung(STARTED, status(0.0, generator_0=0.0), 20.0)
    again = STARTED | {"coordinator": 25.0}
    assert one.hung(again, None, 60.0) == {}
    assert one.hung(again, status(None), 61.0) == {}
    assert one.hung(again, status(0.1), 70.0) == {}
    assert one.hung(again, status(0.1), 72.0).keys() == {"generator-0"}


@given(st.lists(st.floats(0.01, SILENT - 0.5), max_size=40))
def test_who_speaks_often_enough_never_hangs(pauses: list[float]) -> None:
    one, now = silence(), 1.0
    for pause in pauses:
        assert one.hung(STARTED, status(0.0, generator_0=0.0), now) == {}
        now += pause
        assert one.hung(STARTED, status(pause, generator_0=pause), now) == {}
