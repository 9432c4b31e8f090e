"""Health of generators: every transition that exists, and those that must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.fleet.membership import REMEMBERED_SECONDS, Fleet, Health, Member


def member(name: str = "g", incarnation: str = "1", now: float = 0.0) -> Member:
    return Member(
        name=name,
        incarnation=incarnation,
        peer=f"{name}:{incarnation}".encode(),
        workers=1,
        capacity=8,
        joined=now,
        last_seen=now,
    )


def fleet_of(*names: str, version: int | None = None) -> Fleet:
    """Members that joined at 0; with verified and published weights if a version is given."""
    fleet = Fleet(suspect_seconds=10, dead_seconds=60)
    for name in names:
        fleet.join(member(name))
        if version is not None:
            fleet.verified(name, version)
    if version is not None:
        fleet.published(version)
    return fleet


def health(fleet: Fleet, name: str = "g") -> Health:
    found = fleet.get(name)
    assert found is not None
    return found.health


def test_joining_is_stale_until_verified_and_published() -> None:
    newcomer = member()
    assert newcomer.health is Health.JOINING
    fleet = Fleet(suspect_seconds=10, dead_seconds=60)
    fleet.join(newcomer)
    assert health(fleet) is Health.STALE
    fleet.verified("g", 3)
    assert health(fleet) is Health.STALE
    fleet.published(3)
    assert health(fleet) is Health.HEALTHY
    assert [m.name for m in fleet.healthy()] == ["g"]


def test_who_has_another_version_is_stale() -> None:
    fleet = fleet_of("a", "b", version=1)
    fleet.verified("a", 2)
    assert health(fleet, "a") is Health.STALE
    fleet.published(2)
    assert (health(fleet, "a"), health(fleet, "b")) == (Health.HEALTHY, Health.STALE)


def test_silence_makes_suspect_then_dead() -> None:
    fleet = fleet_of("g", version=0)
    assert fleet.tick(9.9) == []
    assert health(fleet) is Health.HEALTHY
    assert fleet.tick(10) == []
    assert health(fleet) is Health.SUSPECT
    assert fleet.healthy() == fleet.alive() == []
    assert [m.name for m in fleet.tick(60)] == ["g"]
    assert health(fleet) is Health.DEAD
    assert fleet.tick(61) == [], "it dies once"


def test_a_suspect_that_was_merely_slow_is_healthy_again() -> None:
    fleet = fleet_of("g", version=0)
    fleet.tick(10)
    fleet.seen("g", 11)
    assert health(fleet) is Health.HEALTHY


def test_a_suspect_that_never_had_weights_is_stale() -> None:
    fleet = fleet_of("g")
    fleet.tick(10)
    fleet.seen("g", 11)
    assert health(fleet) is Health.STALE


def test_a_suspect_that_missed_a_version_is_stale() -> None:
    fleet = fleet_of("g", "h", version=0)
    fleet.seen("h", 10)
    fleet.tick(10)
    fleet.verified("h", 1)
    fleet.published(1)
    fleet.seen("g", 11)
    assert health(fleet) is Health.STALE


def test_a_failed_sync_makes_stale_and_blame_backs_off() -> None:
    fleet = fleet_of("g", version=0)
    g = fleet.get("g")
    assert g is not None
    fleet.failed("g", 100, blame=False)
    assert (g.health, g.version, g.retry_at, g.failures) == (Health.STALE, -1, 0.0, 0)
    waits = []
    for _ in range(9):
        fleet.failed("g", 100, blame=True)
        waits.append(g.retry_at - 100)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    fleet.verified("g", 0)
    assert (g.health, g.failures) == (Health.HEALTHY, 0)


def test_who_kept_its_weights_serves_on_until_others_are_published() -> None:
    fleet = fleet_of("g", version=0)
    g = fleet.get("g")
    assert g is not None
    fleet.failed("g", 100, blame=True, kept=True)
    assert (g.health, g.version, g.retry_at, g.failures) == (Health.HEALTHY, 0, 101, 1)
    fleet.published(1)
    assert g.health is Health.STALE


def test_another_learner_makes_everybody_stale_whatever_the_number() -> None:
    fleet = fleet_of("a", "b", version=5)
    fleet.seen("a", 10)
    fleet.tick(10)
    assert health(fleet, "b") is Health.SUSPECT
    fleet.unpublish()
    assert (health(fleet, "a"), health(fleet, "b")) == (Health.STALE, Health.SUSPECT)
    fleet.published(5)
    fleet.seen("b", 11)
    assert (health(fleet, "a"), health(fleet, "b")) == (Health.STALE, Health.STALE)


def test_a_connection_belongs_to_the_living() -> None:
    fleet = fleet_of("g", version=0)
    assert fleet.by_peer(b"g:1") is fleet.get("g")
    assert fleet.by_peer(b"x") is None
    fleet.reached("g", b"g:2")
    assert fleet.by_peer(b"g:2") is fleet.get("g")
    assert fleet.by_peer(b"g:1") is None
    fleet.leave("g")
    assert fleet.by_peer(b"g:2") is None


def test_a_new_incarnation_replaces_the_old_one_for_ever() -> None:
    fleet = fleet_of("g", version=0)
    old = fleet.get("g")
    assert old is not None
    fleet.join(member(incarnation="2"))
    assert old.health is Health.DEAD
    assert health(fleet) is Health.STALE
    assert fleet.buried("1")
    assert not fleet.buried("2")
    assert fleet.taken("g", "1")
    with pytest.raises(ValueError, match="is dead"):
        fleet.join(member(incarnation="1"))


def test_a_name_is_taken_while_another_of_it_lives() -> None:
    fleet = fleet_of("g", version=0)
    assert not fleet.taken("g", "1"), "it is its own"
    assert not fleet.taken("h", "2")
    fleet.tick(60)
    assert not fleet.taken("g", "1"), "it was given up, and nobody took its place"
    fleet.join(member(incarnation="2", now=60))
    assert fleet.taken("g", "1")
    fleet.leave("g")
    assert not fleet.taken("g", "1")


names = st.sampled_from(["a", "b"])
events = st.one_of(
    st.tuples(st.just("join"), names, st.sampled_from(["1", "2", "3"])),
    st.tuples(st.sampled_from(["seen", "leave"]), names),
    st.tuples(st.just("verified"), names, st.integers(0, 2)),
    st.tuples(st.just("failed"), names, st.booleans(), st.booleans()),
    st.tuples(st.just("published"), st.integers(0, 2)),
    st.tuples(st.just("unpublish")),
    st.tuples(st.just("tick"), st.sampled_from([1.0, 10.0, 60.0])),
)


@given(st.lists(events, max_size=40))
def test_nobody_comes_back_from_the_dead_and_only_the_verified_serve(
    history: list[tuple[str, ...]],
) -> None:
    fleet, now, published = Fleet(suspect_seconds=10, dead_seconds=60), 0.0, -1
    everyone: list[Member] = []
    for kind, *details in history:
        dead = [m for m in everyone if m.health is Health.DEAD]
        if kind == "tick":
            now += float(details[0])
            died = fleet.tick(now)
            assert all(m.health is Health.DEAD and m not in dead for m in died)
        elif kind == "published":
            published = int(details[0])
            fleet.published(published)
        elif kind == "unpublish":
            published = -1
            fleet.unpublish()
        elif kind == "join":
            name, incarnation = details
            known = fleet.get(name)
            if not fleet.buried(name + incarnation) and (
                known is None or known.incarnation != name + incarnation
            ):
                everyone.append(member(name, name + incarnation, now))
                fleet.join(everyone[-1])
        elif fleet.get(details[0]):
            match kind, *details:
                case "seen", name:
                    fleet.seen(name, now)
                case "leave", name:
                    fleet.leave(name)
                case "verified", name, version:
                    fleet.verified(name, int(version))
                case "failed", name, blame, kept:
                    fleet.failed(name, now, blame=bool(blame), kept=bool(kept))
        assert all(m.health is Health.DEAD for m in dead)
        for m in fleet.healthy():
            assert m.version == published >= 0
        for m in fleet:
            assert fleet.buried(m.incarnation) == (m.health is Health.DEAD)
        assert len({m.name for m in fleet}) == len(list(fleet))


def test_who_has_been_dead_for_long_is_forgotten_but_does_not_come_back() -> None:
    fleet = fleet_of("left", "died", "lives", version=1)
    fleet.leave("left")
    fleet.seen("lives", REMEMBERED_SECONDS)
    assert [m.name for m in fleet.tick(REMEMBERED_SECONDS - 1)] == ["died"]
    assert {m.name for m in fleet} == {"left", "died", "lives"}
    assert fleet.tick(REMEMBERED_SECONDS) == []
    assert [m.name for m in fleet] == ["lives"]
    with pytest.raises(ValueError, match="is dead"):
        fleet.join(member("left"))
