"""The level of the probe: from the dtype, then from what the first weight sync showed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.fleet.probe_level import BOUNDS, ProbeLevel
from asyncds.fleet.weight_sync import Receipt, SyncOutcome, WeightSync

distances = st.lists(st.floats(0, 10), max_size=4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@given(seen=st.lists(distances, max_size=5))
def test_the_first_that_is_seen_sets_it_between_its_bounds(
    dtype: str, seen: list[list[float]]
) -> None:
    level, bounds = ProbeLevel(dtype=dtype), BOUNDS[dtype]  # type: ignore[arg-type]
    assert level.value == bounds.first
    for one in seen:
        level.verified(one)
    first = next((one for one in seen if one), None)
    wanted = 4 * max(first) if first else bounds.first
    assert level.value == min(max(wanted, bounds.least), bounds.first)


@given(given_level=st.floats(1e-6, 10), seen=distances)
def test_one_that_is_given_stays(given_level: float, seen: list[float]) -> None:
    level = ProbeLevel(dtype="float32", given=given_level)
    level.verified(seen)
    assert level.value == given_level


def carried_out(sync: WeightSync, probe: float, *, probed: bool = True) -> SyncOutcome:
    current = sync.begin(members={"a": ("1", 1)}, probed=frozenset("a" if probed else ""), now=0)
    sync.agree("a", current.id, 0)
    sync.agree("L", current.id, 0, version=1)
    sync.applied("a", current.id, Receipt(checksums=[1], probe=[probe, -1] if probed else []))
    outcome = sync.sent(current.id, Receipt(checksums=[1], probe=[-1, -1] if probed else []))
    assert outcome is not None
    return outcome


def test_a_weight_sync_is_judged_by_it_and_says_both() -> None:
    """In bfloat16: 0.2 nats are well before anything is known, and not once 0.01 was seen."""
    sync = WeightSync(
        learner="L",
        prepare_seconds=1,
        transfer_seconds=1,
        late_seconds=1,
        probe_level=ProbeLevel(dtype="bfloat16"),
    )
    unprobed = carried_out(sync, 0, probed=False)
    assert (unprobed.verified, unprobed.distances, unprobed.level) == (["a"], {}, 0.5)
    first = carried_out(sync, -1.02)
    assert (first.verified, first.level) == (["a"], 0.5)
    assert first.distances == {"a": pytest.approx(0.01)}
    second = carried_out(sync, -1.4)
    assert (second.verified, second.mismatched) == ([], ["a"])
    assert second.level == pytest.approx(0.04)
    assert "differ by 0.2 on average (bound 0.04)" in second.culprits["a"]


def test_a_first_weight_sync_that_was_refused_sets_nothing() -> None:
    level = ProbeLevel(dtype="bfloat16")
    sync = WeightSync(
        learner="L", prepare_seconds=1, transfer_seconds=1, late_seconds=1, probe_level=level
    )
    assert carried_out(sync, -3).verified == []
    assert level.value == BOUNDS["bfloat16"].first
