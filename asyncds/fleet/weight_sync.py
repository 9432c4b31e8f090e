"""A weight sync, from agreement to verdict: a pure state machine.

    begin → PREPARING ──all agreed──→ TRANSFERRING ──all reported, or deadline──→ SyncOutcome
                │ deadline, refusal, death                    │ death of a member
                └────────────────────→ SyncOutcome ←──────────┘ (its end fails by its own deadline)

Nobody enters a collective before everybody in it has said it will. Members of a weight sync share
an *epoch*, a numbered list of places; both ends keep their communicator while the epoch stays the
same and build a new one when it changes. The epoch changes with the member list, and after every
weight sync that did not succeed, so a communicator in doubt is never used again.
"""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from asyncds.fleet.probe_level import ProbeLevel

PATIENCE, LEAST_SECONDS = 20.0, 10.0
"""A transfer by a group that has served before is given up after so many times what its transfers
took in the median, and after so many seconds at least: one end hangs."""


class Phase(Enum):
    """The phase of a weight sync."""

    PREPARING = "preparing"
    TRANSFERRING = "transferring"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The report of one end about what it has.

    A checksum per bucket, and the probe's log-probabilities ([] if it was not asked for). seconds:
    from the learner, what sending took.
    """

    checksums: Sequence[int]
    probe: Sequence[float]
    seconds: float | None = None


@dataclass(kw_only=True)
class Sync:
    """A weight sync under way.

    places: each member's first rank in the group; the learner is 0. seconds: that its ends have for
    the transfer. version: what is sent, known once the learner agreed. entered: when all had
    agreed. waiting: members yet to report.
    """

    id: int
    epoch: int
    places: dict[str, int]
    world_size: int
    probed: frozenset[str]
    phase: Phase
    started: float
    deadline: float
    seconds: float
    version: int = -1
    entered: float | None = None
    agreed: set[str] = field(default_factory=set)
    sent: Receipt | None = None
    applied: dict[str, Receipt] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


class SyncResult(StrEnum):
    """How a weight sync ended. OK: a member at least has the version."""

    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class SyncOutcome:
    """The outcome of a weight sync.

    verified: members whose weights equal the learner's. distances: what each probe that was judged
    differed by, mean |Δ log p| in nats. level: up to which that was well. culprits: who is to
    blame, with the reason.
    mismatched: members that serve and do not compute what the learner does, or whose probe could
    not be judged. victims: members that have to be sent everything again through no fault of their
    own.
    """

    sync: Sync
    verified: list[str]
    distances: dict[str, float]
    level: float
    culprits: dict[str, str]
    mismatched: list[str]
    victims: list[str]
    kept: frozenset[str]

    @property
    def result(self) -> SyncResult:
        """OK if a member was verified."""
        return SyncResult.OK if self.verified else SyncResult.FAILED


class WeightSync:
    """Runs at most one weight sync at a time. `learner` is the name that stands for the sender."""

    def __init__(
        self,
        *,
        learner: str,
        prepare_seconds: float,
        transfer_seconds: float,
        late_seconds: float,
        probe_level: ProbeLevel,
        first: int = 1,
    ) -> None:
        """transfer_seconds: the most that a transfer may take.

        late_seconds: beyond what its ends have for it, for their reports to arrive. first: number
        of the first weight sync and epoch. An end may still hold a communicator, or have a word
        under way, of another coordinator's: numbers must not come again.
        """
        self._learner = learner
        self._prepare_seconds = prepare_seconds
        self._transfer_seconds = transfer_seconds
        self._late_seconds = late_seconds
        self._took: deque[float] = deque(maxlen=20)
        self._level = probe_level
        self._syncs = self._epoch = first - 1
        self._epoch_members: list[tuple[str, str]] | None = None
        self.current: Sync | None = None

    def begin(
        self,
        *,
        members: Mapping[str, tuple[str, int]],
        probed: frozenset[str],
        now: float,
    ) -> Sync:
        """Begin a weight sync with `members`: name → (incarnation, engine workers)."""
        if self.current is not None:
            raise RuntimeError("a weight sync is under way")
        incarnations = [(name, incarnation) for name, (incarnation, _) in members.items()]
        if incarnations != self._epoch_members:
            self._epoch += 1
            self._epoch_members = incarnations
            self._took.clear()
        places, place = {}, 1
        for name, (_, workers) in members.items():
            places[name] = place
            place += workers
        self._syncs += 1
        self.current = Sync(
            id=self._syncs,
            epoch=self._epoch,
            places=places,
            world_size=place,
            probed=probed,
            phase=Phase.PREPARING,
            started=now,
            deadline=now + self._prepare_seconds,
            seconds=self._allowed(),
            waiting=set(places),
        )
        return self.current

    def took(self, seconds: float) -> None:
        """The last weight sync succeeded, within so many seconds of its transfer."""
        self._took.append(seconds)

    def _allowed(self) -> float:
        """A group that has served need not be waited for as long as one that is to be built."""
        if not self._took:
            return self._transfer_seconds
        usual = statistics.median(self._took)
        return min(self._transfer_seconds, max(LEAST_SECONDS, PATIENCE * usual))

    def agree(self, name: str, sync: int, now: float, version: int | None = None) -> bool:
        """`name` is ready; the learner also says which version it will send.

        True if it was the last: everybody may enter now.
        """
        current = self._matching(sync, name)
        if current is None or current.phase is not Phase.PREPARING:
            return False
        current.agreed.add(name)
        if version is not None:
            current.version = version
        if len(current.agreed) <= len(current.places):  # and the learner
            return False
        current.phase = Phase.TRANSFERRING
        current.entered = now
        current.deadline = now + current.seconds + self._late_seconds
        return True

    def sent(self, sync: int, receipt: Receipt) -> SyncOutcome | None:
        """The learner has sent everything."""
        if current := self._entered(sync, self._learner):
            current.sent = receipt
        return self._finished()

    def applied(self, name: str, sync: int, receipt: Receipt) -> SyncOutcome | None:
        """A member has everything in its engine."""
        if current := self._entered(sync, name):
            current.applied[name] = receipt
            current.waiting.discard(name)
        return self._finished()

    def failed(
        self, name: str, sync: int, reason: str, *, kept: bool = False
    ) -> SyncOutcome | None:
        """An end gave up, and lives. kept: as it was before."""
        if current := self._matching(sync, name):
            current.failed[name] = reason
            if kept:
                current.kept.add(name)
            current.waiting.discard(name)
            if current.phase is Phase.PREPARING:
                return self._conclude({name: reason})
        return self._finished()

    def gone(self, name: str, reason: str) -> SyncOutcome | None:
        """A process died or left.

        If it was the learner or had yet to agree, the weight sync is off; otherwise the other ends
        notice by their own deadline and report.
        """
        if name == self._learner:
            self._epoch_members = None
        current = self.current
        if current is None or (name != self._learner and name not in current.places):
            return None
        current.lost[name] = reason
        current.waiting.discard(name)
        if name == self._learner or current.phase is Phase.PREPARING:
            return self._conclude({name: reason})
        return self._finished()

    def tick(self, now: float) -> SyncOutcome | None:
        """Apply the deadline."""
        current = self.current
        if current is None or now < current.deadline:
            return None
        everybody = {self._learner, *current.places}
        if current.phase is Phase.PREPARING:
            return self._conclude(
                dict.fromkeys(sorted(everybody - current.agreed), "did not agree in time")
            )
        reported = {*current.applied, *current.failed, *current.lost}
        if current.sent is not None:
            reported.add(self._learner)
        return self._conclude(dict.fromkeys(sorted(everybody - reported), "did not report in time"))

    def _matching(self, sync: int, name: str) -> Sync | None:
        """The current weight sync, if the word is about it, and from one of its ends."""
        current = self.current
        if current is None or current.id != sync:
            return None
        return current if name == self._learner or name in current.places else None

    def _entered(self, sync: int, name: str) -> Sync | None:
        """The same, if the transfer has begun."""
        current = self._matching(sync, name)
        return current if current and current.phase is Phase.TRANSFERRING else None

    def _finished(self) -> SyncOutcome | None:
        current = self.current
        if current is None or current.phase is Phase.PREPARING:
            return None
        if current.sent is None and self._learner not in current.failed:
            return None
        if current.waiting:
            return None
        return self._conclude({})

    def _conclude(self, silent: dict[str, str]) -> SyncOutcome:
        current = self.current
        assert current is not None
        self.current = None
        verified, mismatched, culprits = [], [], silent | current.lost
        distances: dict[str, float] = {}
        level = self._level.value
        for name, receipt in current.applied.items():
            if name in current.lost:
                continue
            if current.sent is None:
                if name in current.probed:
                    mismatched.append(name)
                continue
            distance = _distance(receipt, current.sent) if name in current.probed else None
            if distance is not None:
                distances[name] = distance
            if wrong := self._difference(name, current, receipt, current.sent, distance):
                culprits[name] = wrong
                mismatched.append(name)
            else:
                verified.append(name)
        if current.sent is not None:
            # The learner's end is fine, so who failed did so alone.
            culprits |= {n: r for n, r in current.failed.items() if n not in culprits}
        elif not culprits:
            culprits = dict(current.failed)
        victims = [n for n in current.places if n not in culprits and n not in verified]
        if current.phase is Phase.PREPARING:
            victims = []
        if set(verified) != set(current.places):
            self._epoch_members = None
        self._level.verified([distances[name] for name in verified if name in distances])
        return SyncOutcome(
            sync=current,
            verified=verified,
            distances=distances,
            level=level,
            culprits=culprits,
            mismatched=mismatched,
            victims=victims,
            kept=frozenset(current.kept - set(current.lost)),
        )

    def _difference(
        self, name: str, sync: Sync, got: Receipt, sent: Receipt, distance: float | None
    ) -> str | None:
        if list(got.checksums) != list(sent.checksums):
            wrong = sum(a != b for a, b in zip(got.checksums, sent.checksums, strict=False))
            return f"{wrong or 'the number'} of {len(sent.checksums)} bucket checksums differ"
        if name not in sync.probed:
            return None
        if distance is None:
            return f"the probe has {len(got.probe)} log-probs, the learner's {len(sent.probe)}"
        if not distance <= self._level.value:
            return (
                f"log-probs of the probe differ by {distance:.2g} on average "
                f"(bound {self._level.value:.2g}) although the bytes arrived intact"
            )
        return None


def _distance(got: Receipt, sent: Receipt) -> float | None:
    """Mean |Δ log p| of two probes; None where they do not fit together, or there is none."""
    if len(got.probe) != len(sent.probe) or not sent.probe:
        return None
    pairs = zip(got.probe, sent.probe, strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(sent.probe)
