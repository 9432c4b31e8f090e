"""One broadcast from agreement to verdict: who may enter, who is to blame, and that it ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.fleet.probe_level import ProbeLevel
from asyncds.fleet.weight_sync import Phase, Receipt, Sync, SyncOutcome, WeightSync

GOOD = Receipt(checksums=[1, 2, 3], probe=[-0.5, -1.0])
NO_PROBE = Receipt(checksums=[1, 2, 3], probe=[])


def machine() -> WeightSync:
    return WeightSync(
        learner="L",
        prepare_seconds=10,
        transfer_seconds=100,
        late_seconds=0,
        probe_level=ProbeLevel(dtype="bfloat16", given=0.1),
    )


def begin(sync: WeightSync, *names: str, now: float = 0.0, probed: tuple[str, ...] = ()) -> Sync:
    return sync.begin(members={n: (f"{n}-1", 1) for n in names}, probed=frozenset(probed), now=now)


def transferring(*names: str, probed: tuple[str, ...] = ()) -> tuple[WeightSync, int]:
    sync = machine()
    id = begin(sync, *names, probed=probed).id
    for name in names:
        assert not sync.agree(name, id, 0)
    assert sync.agree("L", id, 0, version=7)
    return sync, id


def blamed(outcome: SyncOutcome | None) -> dict[str, str]:
    assert outcome is not None
    return outcome.culprits


def test_all_is_well() -> None:
    sync, id = transferring("a", "b", probed=("a",))
    assert sync.applied("a", id, GOOD) is None
    assert sync.sent(id, GOOD) is None
    outcome = sync.applied("b", id, NO_PROBE)
    assert outcome is not None
    assert outcome.sync.version == 7
    assert (outcome.verified, outcome.culprits, outcome.victims) == (["a", "b"], {}, [])
    assert sync.current is None


def test_places_in_the_group_follow_the_workers() -> None:
    current = machine().begin(
        members={"a": ("1", 2), "b": ("1", 4), "c": ("1", 1)}, probed=frozenset(), now=0
    )
    assert (current.places, current.world_size) == ({"a": 1, "b": 3, "c": 7}, 8)


def test_one_at_a_time() -> None:
    sync = machine()
    begin(sync, "a")
    with pytest.raises(RuntimeError, match="under way"):
        begin(sync, "a")


def test_who_does_not_agree_in_time_is_to_blame() -> None:
    sync = machine()
    id = begin(sync, "a", "b").id
    sync.agree("L", id, 0, version=1)
    sync.agree("a", id, 0)
    assert sync.tick(9.9) is None
    outcome = sync.tick(10)
    assert blamed(outcome) == {"b": "did not agree in time"}
    assert outcome is not None
    assert (outcome.verified, outcome.victims) == ([], [])


def test_who_refuses_or_dies_before_the_transfer_is_to_blame_at_once() -> None:
    for word in ("failed", "gone"):
        sync = machine()
        id = begin(sync, "a", "b").id
        sync.agree("a", id, 0)
        outcome = sync.failed("b", id, "busy") if word == "failed" else sync.gone("b", "busy")
        assert blamed(outcome) == {"b": "busy"}


def test_a_stranger_can_neither_agree_nor_call_off() -> None:
    sync = machine()
    id = begin(sync, "a").id
    sync.agree("L", id, 0, version=1)
    assert not sync.agree("stranger", id, 0)
    assert sync.failed("stranger", id, "no") is None
    assert sync.gone("stranger", "no") is None
    assert sync.current is not None
    assert sync.current.phase is Phase.PREPARING
    assert sync.agree("a", id, 0)
    assert sync.applied("stranger", id, GOOD) is None
    sync.sent(id, NO_PROBE)
    outcome = sync.applied("a", id, NO_PROBE)
    assert outcome is not None
    assert outcome.verified == ["a"]


def test_words_about_another_broadcast_are_ignored() -> None:
    sync, id = transferring("a")
    for other in (id - 1, id + 1):
        assert not sync.agree("a", other, 0)
        assert sync.sent(other, GOOD) is None
        assert sync.applied("a", other, GOOD) is None
        assert sync.failed("a", other, "no") is None
    assert sync.current is not None
    assert not sync.current.applied


def test_reports_before_the_transfer_are_ignored() -> None:
    sync = machine()
    id = begin(sync, "a").id
    assert sync.sent(id, GOOD) is None
    assert sync.applied("a", id, GOOD) is None
    sync.agree("a", id, 0)
    assert sync.agree("L", id, 0, version=1)
    assert sync.sent(id, GOOD) is None, "the early report did not count"


def test_who_is_silent_in_the_transfer_is_to_blame() -> None:
    sync, id = transferring("a", "b")
    sync.sent(id, NO_PROBE)
    sync.applied("a", id, NO_PROBE)
    assert sync.tick(99.9) is None
    outcome = sync.tick(100)
    assert blamed(outcome) == {"b": "did not report in time"}
    assert outcome is not None
    assert (outcome.verified, outcome.victims) == (["a"], [])


def test_who_merely_suffered_from_a_silent_one_is_a_victim() -> None:
    sync, id = transferring("a", "b")
    sync.failed("L", id, "timed out")
    sync.failed("a", id, "timed out")
    outcome = sync.tick(100)
    assert blamed(outcome) == {"b": "did not report in time"}
    assert outcome is not None
    assert outcome.victims == ["a"]


def test_who_died_in_the_transfer_is_to_blame_and_the_others_report() -> None:
    sync, id = transferring("a", "b")
    assert sync.gone("b", "died") is None
    assert sync.failed("a", id, "timed out") is None
    outcome = sync.failed("L", id, "timed out")
    assert blamed(outcome) == {"b": "died"}
    assert outcome is not None
    assert outcome.victims == ["a"]


def test_who_reported_and_then_died_is_not_verified() -> None:
    sync, id = transferring("a", "b")
    sync.applied("a", id, NO_PROBE)
    sync.gone("a", "died")
    sync.sent(id, NO_PROBE)
    outcome = sync.applied("b", id, NO_PROBE)
    assert blamed(outcome) == {"a": "died"}
    assert outcome is not None
    assert outcome.verified == ["b"]


def test_a_failure_beside_a_learner_that_sent_all_is_its_own() -> None:
    sync, id = transferring("a", "b")
    sync.sent(id, NO_PROBE)
    sync.failed("a", id, "out of memory")
    outcome = sync.applied("b", id, NO_PROBE)
    assert blamed(outcome) == {"a": "out of memory"}
    assert outcome is not None
    assert outcome.verified == ["b"]
    assert begin(sync, "a", "b").epoch > outcome.sync.epoch


def test_who_kept_its_weights_and_lives_is_said_to_have() -> None:
    sync, id = transferring("a", "b", "c")
    sync.failed("a", id, "cut", kept=True)
    sync.failed("b", id, "could not be loaded")
    sync.failed("c", id, "cut", kept=True)
    sync.gone("c", "died")
    outcome = sync.failed("L", id, "cut")
    assert outcome is not None
    assert outcome.kept == {"a"}


def test_if_all_failed_nobody_is_spared() -> None:
    sync, id = transferring("a")
    sync.failed("L", id, "broken pipe")
    assert blamed(sync.failed("a", id, "timed out")) == {"L": "broken pipe", "a": "timed out"}


def test_a_learner_that_is_gone_ends_it_and_the_members_are_victims() -> None:
    for applied in (True, False):
        sync, id = transferring("a", "b")
        if applied:
            sync.applied("a", id, GOOD)
        outcome = sync.gone("L", "died")
        assert blamed(outcome) == {"L": "died"}
        assert outcome is not None
        assert (outcome.verified, outcome.victims) == ([], ["a", "b"])


@pytest.mark.parametrize(
    ("receipt", "reason"),
    [
        (Receipt(checksums=[1, 2, 4], probe=[-0.5, -1.0]), "1 of 3 bucket checksums differ"),
        (Receipt(checksums=[1, 2], probe=[-0.5, -1.0]), "the number of 3 bucket checksums"),
        (Receipt(checksums=[1, 2, 3], probe=[-0.5]), "the probe has 1 log-probs"),
        (Receipt(checksums=[1, 2, 3], probe=[]), "the probe has 0 log-probs"),
        (Receipt(checksums=[1, 2, 3], probe=[-0.5, -1.3]), "differ by 0.15 on average"),
        (Receipt(checksums=[1, 2, 3], probe=[-0.5, float("nan")]), "differ by nan"),
    ],
)
def test_a_mismatch_is_named(receipt: Receipt, reason: str) -> None:
    sync, id = transferring("a", "b", probed=("a", "b"))
    sync.applied("a", id, receipt)
    sync.applied("b", id, Receipt(checksums=[1, 2, 3], probe=[-0.6, -1.0]))
    outcome = sync.sent(id, GOOD)
    assert list(blamed(outcome)) == ["a"]
    assert reason in blamed(outcome)["a"]
    assert outcome is not None
    assert (outcome.verified, outcome.mismatched) == (["b"], ["a"])


def test_a_probe_that_nobody_judged_proves_nothing() -> None:
    sync, id = transferring("a", "b", probed=("a",))
    sync.applied("a", id, GOOD)
    sync.applied("b", id, NO_PROBE)
    outcome = sync.gone("L", "died")
    assert outcome is not None
    assert (outcome.mismatched, outcome.victims) == (["a"], ["a", "b"])


def test_who_failed_or_died_serves_with_nothing_wrong() -> None:
    sync, id = transferring("a", "b", "c")
    sync.failed("a", id, "no")
    sync.applied("b", id, Receipt(checksums=[9], probe=[]))
    sync.gone("b", "died")
    sync.applied("c", id, NO_PROBE)
    outcome = sync.sent(id, NO_PROBE)
    assert set(blamed(outcome)) == {"a", "b"}
    assert outcome is not None
    assert (outcome.verified, outcome.mismatched) == (["c"], [])


def test_the_epoch_changes_exactly_when_it_must() -> None:
    sync = machine()

    def run(members: dict[str, tuple[str, int]], ends: str) -> int:
        current = sync.begin(members=members, probed=frozenset(), now=0)
        if ends == "refused":
            sync.failed("L", current.id, "no")
            return current.epoch
        for name in (*members, "L"):
            sync.agree(name, current.id, 0)
        for name in members:
            if ends == "failed":
                sync.failed(name, current.id, "no")
            else:
                sync.applied(name, current.id, NO_PROBE)
        sync.sent(current.id, NO_PROBE)
        assert sync.current is None
        return current.epoch

    a, b, b2 = ("a", ("1", 1)), ("b", ("1", 1)), ("b", ("2", 1))
    first = run(dict([a]), "well")
    assert run(dict([a]), "well") == first
    assert run(dict([a, b]), "well") == first + 1
    assert run(dict([a, b]), "well") == first + 1
    assert run(dict([a, b2]), "well") == first + 2, "a new incarnation has no communicator"
    assert run(dict([b2, a]), "well") == first + 3, "places are others"
    assert run(dict([b2, a]), "failed") == first + 3
    assert run(dict([b2, a]), "well") == first + 4, "a communicator in doubt is not used again"
    assert run(dict([b2, a]), "refused") == first + 4
    assert run(dict([b2, a]), "well") == first + 5
    sync.gone("L", "restarted, between broadcasts")
    assert run(dict([b2, a]), "well") == first + 6


def test_numbers_may_begin_where_another_coordinator_can_not_have_come() -> None:
    sync = WeightSync(
        learner="L",
        prepare_seconds=1,
        transfer_seconds=1,
        late_seconds=1,
        probe_level=ProbeLevel(dtype="float32", given=1),
        first=1001,
    )
    current = begin(sync, "a")
    assert (current.id, current.epoch) == (1001, 1001)


ends = st.sampled_from(["L", "a", "b", "stranger"])
words = st.one_of(
    st.tuples(st.just("agree"), ends),
    st.tuples(st.just("sent"), st.just("L")),
    st.tuples(st.just("applied"), ends),
    st.tuples(st.sampled_from(["failed", "gone"]), ends),
    st.tuples(st.just("old"), ends),
    st.tuples(st.just("tick"), st.sampled_from(["1", "5", "60"])),
)


@settings(max_examples=300)
@given(st.lists(words, max_size=30), st.sampled_from([GOOD, NO_PROBE]))
def test_whatever_is_said_in_whatever_order(said: list[tuple[str, str]], receipt: Receipt) -> None:
    sync, now = machine(), 0.0
    current = begin(sync, "a", "b", probed=("a",))
    agreed: set[str] = set()
    entered, outcomes = False, []
    for kind, who in said:
        over = bool(outcomes)
        outcome = None
        match kind:
            case "agree":
                go = sync.agree(who, current.id, now, version=3 if who == "L" else None)
                agreed |= {who} - {"stranger"} if not over else set()
                assert go == (not over and not entered and agreed == {"L", "a", "b"})
                entered |= go
            case "sent":
                outcome = sync.sent(current.id, GOOD)
            case "applied":
                outcome = sync.applied(who, current.id, receipt)
            case "failed":
                outcome = sync.failed(who, current.id, "failed")
            case "gone":
                outcome = sync.gone(who, "gone")
            case "old":
                assert not sync.agree(who, current.id - 1, now)
                assert sync.applied(who, current.id - 1, receipt) is None
                assert sync.failed(who, current.id - 1, "old") is None
            case "tick":
                now += float(who)
                outcome = sync.tick(now)
        if outcome is not None:
            assert not over, "one outcome"
            outcomes.append(outcome)
        if not over:
            assert (sync.current is None) == bool(outcomes)
            assert current.phase is (Phase.TRANSFERRING if entered else Phase.PREPARING)
    if not outcomes:
        end = sync.tick(now + 1000)
        assert end is not None, "the deadline ends it"
        outcomes.append(end)
        assert sync.tick(now + 2000) is None
    (outcome,) = outcomes
    members = {"a", "b"}
    assert set(outcome.culprits) <= members | {"L"}
    assert not set(outcome.verified) & (set(outcome.culprits) | set(outcome.victims))
    assert not set(outcome.victims) & set(outcome.culprits)
    if entered:
        assert members == {*outcome.verified, *outcome.victims, *outcome.culprits} - {"L"}
    else:
        assert outcome.verified == []
        assert outcome.culprits
    if outcome.verified and "a" in outcome.verified:
        assert receipt is GOOD
    again = begin(sync, "a", "b", now=now + 3000)
    assert again.id > current.id
    assert (again.epoch == current.epoch) == (set(outcome.verified) == members)


def carried_out(sync: WeightSync, *names: str, now: float, seconds: float) -> Sync:
    """A broadcast that succeeds, so many seconds after everybody had agreed."""
    current = begin(sync, *names, now=now)
    for name in (*names, "L"):
        sync.agree(name, current.id, now, version=1)
    for name in names:
        sync.applied(name, current.id, GOOD)
    outcome = sync.sent(current.id, GOOD)
    assert outcome is not None
    assert outcome.verified == list(names)
    sync.took(seconds)
    return current


def test_a_group_that_has_served_is_not_waited_for_as_long_as_a_new_one() -> None:
    sync = WeightSync(
        learner="L",
        prepare_seconds=9,
        transfer_seconds=100,
        late_seconds=5,
        probe_level=ProbeLevel(dtype="float32", given=1),
    )
    given = [carried_out(sync, "a", "b", now=i, seconds=s).seconds for i, s in enumerate((2, 3, 9))]
    assert given == [100, 40, 50], "all, then 20 times the median"
    assert carried_out(sync, "a", "b", now=9, seconds=9).seconds == 60
    assert carried_out(sync, "a", now=9, seconds=0.1).seconds == 100, "another group"
    assert carried_out(sync, "a", now=9, seconds=0.1).seconds == 10, "at least"
    current = begin(sync, "a", now=20)
    sync.agree("a", current.id, 21)
    sync.agree("L", current.id, 21, version=2)
    assert sync.tick(21 + 10 + 4.9) is None
    outcome = sync.tick(21 + 10 + 5)
    assert outcome is not None
    assert outcome.culprits.keys() == {"a", "L"}
    assert begin(sync, "a", now=50).seconds == 100, "it is built anew"
