"""When the watchdog barks."""

from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.watchdog import Watchdog


def test_it_barks_once_for_every_period_without_movement() -> None:
    dog = Watchdog(seconds=10, now=0)
    assert [t for t in range(35) if dog.barks(t)] == [10, 20, 30]
    assert dog.has_barked
    assert dog.still(35) == 35


def test_movement_quietens_it() -> None:
    dog = Watchdog(seconds=10, now=0)
    assert dog.barks(12)
    dog.moved(13)
    assert not dog.has_barked
    assert not dog.barks(22)
    assert dog.barks(23)


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.booleans()), max_size=50),
    st.floats(1, 20),
)
def test_it_never_barks_earlier_than_its_seconds_after_a_movement(
    turns: list[tuple[float, bool]], seconds: float
) -> None:
    dog, now, last = Watchdog(seconds=seconds, now=0), 0.0, 0.0
    for step, moves in turns:
        now += step
        if moves:
            dog.moved(now)
            last = now
        elif dog.barks(now):
            assert now - last >= seconds
            last = now
