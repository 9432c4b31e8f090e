"""Membership of generators, a pure state machine: which exist, and which may serve.

    JOINING → STALE → HEALTHY ⇄ SUSPECT → DEAD

JOINING: introduced itself, not counted yet. STALE: alive, but its weights are not the published
ones. HEALTHY: its weights were verified to be the published ones; only such a member gets work.
SUSPECT: silent for `suspect_seconds`. DEAD: silent for `dead_seconds`, or it left.

DEAD → HEALTHY does not exist: a process that was given up must say hello as a new incarnation and
starts at JOINING. SUSPECT → HEALTHY exists for one that was merely slow, if nothing was published
without it in the meantime; otherwise it is STALE. Who has been DEAD for REMEMBERED_SECONDS is
forgotten: where every generator has a name of its own, as pods do, a long run has many.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

REMEMBERED_SECONDS = 3600.0
"""Seconds for which dead members are shown and counted."""


class Health(StrEnum):
    """Health of a generator."""

    JOINING = "joining"
    STALE = "stale"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(kw_only=True)
class Member:
    """One incarnation of a generator process.

    workers: engine workers, its places in a transfer group. capacity: leases it takes at once.
    version: of its verified weights, -1 if unknown. failures: syncs failed in a row.
    retry_at: time before which it is left out of the next sync. syncs: verified so far.
    """

    name: str
    incarnation: str
    peer: bytes
    workers: int
    capacity: int
    joined: float
    last_seen: float
    health: Health = Health.JOINING
    version: int = -1
    failures: int = 0
    retry_at: float = 0.0
    syncs: int = 0
    stats: dict[str, float] = field(default_factory=dict)


class Fleet:
    """The generators, by name. Every method is a transition; `tick` makes the timed ones."""

    def __init__(self, *, suspect_seconds: float, dead_seconds: float) -> None:
        self._suspect_seconds = suspect_seconds
        self._dead_seconds = dead_seconds
        self._members: dict[str, Member] = {}
        self._names: dict[bytes, str] = {}
        self._buried: set[str] = set()
        self._published = -1

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, name: str) -> Member | None:
        """The present incarnation called `name`."""
        return self._members.get(name)

    def by_peer(self, peer: bytes) -> Member | None:
        """The living member behind a connection."""
        member = self._members.get(self._names.get(peer, ""))
        if member is None or member.peer != peer or member.health is Health.DEAD:
            return None
        return member

    def buried(self, incarnation: str) -> bool:
        """Whether this incarnation was declared dead: it must not come back."""
        return incarnation in self._buried

    def taken(self, name: str, incarnation: str) -> bool:
        """Whether another incarnation of that name lives."""
        member = self._members.get(name)
        return (
            member is not None
            and member.incarnation != incarnation
            and member.health is not Health.DEAD
        )

    def join(self, member: Member) -> None:
        """Add a member; an incarnation of the same name is dead from now on.

        Raises ValueError if this very incarnation is dead already.
        """
        if self.buried(member.incarnation):
            raise ValueError(f"incarnation {member.incarnation} of {member.name} is dead")
        if previous := self._members.get(member.name):
            self._bury(previous)
        self._members[member.name] = member
        member.health = Health.STALE
        self.reached(member.name, member.peer)

    def reached(self, name: str, peer: bytes) -> None:
        """The connection on which a member is spoken to from now on."""
        member = self._members[name]
        self._names.pop(member.peer, None)
        member.peer = peer
        self._names[peer] = name

    def seen(self, name: str, now: float) -> None:
        """A word from a living member."""
        member = self._members[name]
        member.last_seen = now
        if member.health is Health.SUSPECT:
            member.health = self._by_version(member)

    def verified(self, name: str, version: int) -> None:
        """The member was shown to have the learner's weights `version`.

        If that is the published version it is HEALTHY from now on, otherwise STALE.
        """
        member = self._members[name]
        if member.health is Health.DEAD:
            return
        member.version = version
        member.failures = 0
        member.syncs += 1
        member.health = self._by_version(member)

    def failed(self, name: str, now: float, *, blame: bool, kept: bool = False) -> None:
        """Take note that a weight sync failed at a member.

        Unless it has `kept` the weights it had, they are unknown, and it must not serve before the
        next verified one. With `blame` it waits 1, 2, 4 … at most 60 s before it may join another,
        so that one bad member can't stop the others' updates.
        """
        member = self._members[name]
        if member.health is Health.DEAD:
            return
        if not kept:
            self._distrust(member)
        if blame:
            member.retry_at = now + min(60.0, 2.0**member.failures)
            member.failures += 1

    def published(self, version: int) -> None:
        """`version` is the one to have from now on: who has another is STALE."""
        self._published = version
        for member in self.alive():
            member.health = self._by_version(member)

    def unpublish(self) -> None:
        """Another learner begins: nobody has its weights, whatever their version's number."""
        self._published = -1
        for member in self:
            if member.health is not Health.DEAD:
                self._distrust(member)

    def leave(self, name: str) -> None:
        """Take note that a member said goodbye, or was removed."""
        self._bury(self._members[name])

    def tick(self, now: float) -> list[Member]:
        """Apply silence. Returns the members that are dead from now on."""
        died = []
        for member in list(self):
            silent = now - member.last_seen
            if member.health is Health.DEAD:
                if silent >= REMEMBERED_SECONDS:
                    del self._members[member.name]
                continue
            if silent >= self._dead_seconds:
                self._bury(member)
                died.append(member)
            elif silent >= self._suspect_seconds:
                member.health = Health.SUSPECT
        return died

    def alive(self) -> list[Member]:
        """Members that are neither dead nor silent."""
        return [m for m in self if m.health in (Health.STALE, Health.HEALTHY)]

    def healthy(self) -> list[Member]:
        """Members that may serve."""
        return [m for m in self if m.health is Health.HEALTHY]

    @property
    def tokens_per_second(self) -> float:
        """Tokens that the members that are alive sample, all together."""
        return sum(m.stats.get("tokens_per_second", 0.0) for m in self.alive())

    def _bury(self, member: Member) -> None:
        member.health = Health.DEAD
        self._names.pop(member.peer, None)
        self._buried.add(member.incarnation)

    def _distrust(self, member: Member) -> None:
        member.version = -1
        if member.health is not Health.SUSPECT:
            member.health = Health.STALE

    def _by_version(self, member: Member) -> Health:
        current = member.version >= 0 and member.version == self._published
        return Health.HEALTHY if current else Health.STALE
