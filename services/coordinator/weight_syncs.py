"""Keeping the fleet's weights up to date: whoever is behind what the learner has staged gets it."""

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from asyncds.fleet.membership import Fleet, Health, Member
from asyncds.fleet.weight_sync import Phase, Receipt, Sync, SyncOutcome, SyncResult, WeightSync
from asyncds.protocol.wire import (
    Applied,
    Go,
    Message,
    Prepare,
    Prepared,
    Sent,
    SyncAborted,
    SyncFailed,
)

log = logging.getLogger(__name__)

LEARNER = "learner"
LATE_SECONDS = 10.0
"""Seconds beyond the deadline that both ends of a transfer have, for their reports."""
LEARNER_RETRY_SECONDS = 1.0
"""Seconds after a weight sync that failed at the learner, until the next."""


@dataclass(kw_only=True)
class LearnerEnd:
    """The sending end of weight syncs, as rank 0 of the learner has told.

    peer: its connection, None while it is not here. staged: the newest version it can send, -1 for
    none. rendezvous, checksums: of the weight sync it agreed to last. layout, tensors: what it
    sends by, which outlives a weight sync: the fingerprint, and the layout itself. retry_at: time
    before which no other may begin.
    """

    peer: bytes | None = None
    staged: int = -1
    rendezvous: str = ""
    checksums: list[int] = field(default_factory=list)
    layout: str = ""
    tensors: bytes = b""
    retry_at: float = 0.0

    def ready(self, now: float) -> bool:
        """Whether a weight sync may begin."""
        return self.staged >= 0 and self.peer is not None and now >= self.retry_at

    def agreed(self, message: Prepared) -> str:
        """Take over what will be sent. Returns what is missing for that, or ""."""
        self.rendezvous, self.checksums = message.rendezvous, message.checksums
        if message.tensors:
            self.layout, self.tensors = message.layout, message.tensors
        return "" if message.layout == self.layout else "did not say which tensors it sends"


@dataclass(kw_only=True)
class SyncFigures:
    """Figures of the weight syncs so far.

    How each ended, what those that succeeded took, how long generators paused, and who was to blame
    for the last failure, with the reason. failing: so many in a row brought weights to nobody.
    """

    results: Counter[SyncResult] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    pauses: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    last_failure: str = ""
    failing: int = 0

    @property
    def last_seconds(self) -> float | None:
        """Seconds that the last one that succeeded took."""
        return self.seconds[-1] if self.seconds else None

    @property
    def last_pause(self) -> float | None:
        """How long a generator paused last."""
        return self.pauses[-1] if self.pauses else None


class WeightSyncManager:
    """Starts a weight sync whenever a member lacks the staged weights; carries its messages.

    learner: the sending end. published: the version that generators serve, -1 for none. figures:
    what became of weight syncs.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        sync: WeightSync,
        probe_every: int,
        send: Callable[[bytes, Message], None],
        on_go: Callable[[int], None],
        on_mismatch: Callable[[Member], None],
        on_end: Callable[[SyncOutcome, float], None],
    ) -> None:
        """on_go: gets every version that is about to be sent.

        on_mismatch: every member that turned out to have other weights than the learner's. on_end:
        how each ended, and when.
        """
        self._fleet = fleet
        self._send = send
        self._on_go = on_go
        self._on_mismatch = on_mismatch
        self._on_end = on_end
        self._probe_every = probe_every
        self._sync = sync
        self._layouts: dict[str, str] = {}  # fingerprints that the generators know
        self.learner = LearnerEnd()
        self.published = -1
        self.figures = SyncFigures()

    @property
    def current(self) -> Sync | None:
        """The weight sync under way."""
        return self._sync.current

    def unverified(self, name: str) -> int | None:
        """The version that a member is sent by a weight sync that is not over, or None.

        The member may have it, and whether it is the learner's there is not known.
        """
        sync = self.current
        if sync is None or sync.phase is not Phase.TRANSFERRING or name not in sync.places:
            return None
        return sync.version

    def serve_without_learner(self, version: int) -> None:
        """Publish the weights that every generator joins with: nothing is trained."""
        self.published = version
        self._fleet.published(version)
        self._on_go(version)

    def learner_here(self, peer: bytes) -> None:
        """Take the connection of the learner's rank 0."""
        self.learner.peer = peer

    def learner_has(self, staged: int) -> None:
        """Take the newest version that the learner can send; an earlier word may come late."""
        self.learner.staged = max(self.learner.staged, staged)

    def learner_replaced(self, now: float) -> None:
        """Forget what was published: another learner's versions are others of the same number."""
        self.learner_lost(now)
        self.published = -1
        self._fleet.unpublish()

    def learner_lost(self, now: float) -> None:
        """Take note that the learner is gone: nothing is staged until it says so."""
        self.learner.staged, self.learner.peer = -1, None
        self._conclude(self._sync.gone(LEARNER, "the learner was lost"), now)

    def lost(self, member: Member, reason: str, now: float) -> None:
        """Take note that a generator is gone."""
        self._conclude(self._sync.gone(member.name, reason), now)

    def reconcile(self, now: float) -> None:
        """Apply deadlines; start a weight sync if somebody needs one."""
        self._conclude(self._sync.tick(now), now)
        learner = self.learner.peer
        if self.current or learner is None or not self.learner.ready(now):
            return
        members = [m for m in self._fleet.alive() if now >= m.retry_at]
        if all(m.health is Health.HEALTHY and m.version == self.learner.staged for m in members):
            return
        sync = self._sync.begin(
            members={m.name: (m.incarnation, m.workers) for m in members},
            probed=frozenset(m.name for m in members if self._wants_probe(m)),
            now=now,
        )
        self._layouts.clear()
        for member in members:
            self._send(member.peer, self._prepare(sync, member.name))
        self._send(learner, self._prepare(sync, LEARNER))

    def _wants_probe(self, member: Member) -> bool:
        # The first brings a run's engines what they have loaded anyway: only the second shows that
        # what arrives is what they compute with.
        early = member.syncs < 2
        return early or member.failures > 0 or member.syncs % self._probe_every == 0

    def _prepare(self, sync: Sync, name: str) -> Prepare:
        return Prepare(
            sync=sync.id,
            epoch=sync.epoch,
            rank=sync.places.get(name, 0),
            world_size=sync.world_size,
            probe=name in sync.probed or (name == LEARNER and bool(sync.probed)),
            deadline=sync.seconds,
            layout=self.learner.layout if name == LEARNER else "",
        )

    def prepared(self, name: str, message: Prepared, now: float) -> None:
        """Take note that a generator, or the learner (named LEARNER), is ready."""
        version = None
        if name != LEARNER:
            self._layouts[name] = message.layout
        elif self.current is not None and message.sync == self.current.id:
            if missing := self.learner.agreed(message):
                self._conclude(self._sync.failed(name, message.sync, missing), now)
                return
            version = message.version
        if not self._sync.agree(name, message.sync, now, version):
            return
        sync = self.current
        assert sync is not None
        self._on_go(sync.version)
        for name, peer in self._peers(sync).items():
            self._send(peer, self._go(sync, name))

    def _go(self, sync: Sync, name: str) -> Go:
        knows = name == LEARNER or self._layouts.get(name) == self.learner.layout
        return Go(
            sync=sync.id,
            version=sync.version,
            rendezvous=self.learner.rendezvous,
            layout=self.learner.layout,
            tensors=b"" if knows else self.learner.tensors,
            checksums=self.learner.checksums,
        )

    def applied(self, name: str, message: Applied, now: float) -> None:
        """Take note that a generator has the weights in its engine."""
        self.figures.pauses.append(message.pause_seconds)
        self._conclude(self._sync.applied(name, message.sync, _receipt(message)), now)

    def sent(self, message: Sent, now: float) -> None:
        """Take note that the learner sent everything."""
        self._conclude(self._sync.sent(message.sync, _receipt(message)), now)

    def failed(self, name: str, message: SyncFailed, now: float) -> None:
        """Take note that one end gave up."""
        outcome = self._sync.failed(name, message.sync, message.reason, kept=message.kept)
        self._conclude(outcome, now)

    def _peers(self, sync: Sync) -> dict[str, bytes]:
        members = [self._fleet.get(name) for name in sync.places]
        peers = {m.name: m.peer for m in members if m is not None and m.health is not Health.DEAD}
        return peers if self.learner.peer is None else peers | {LEARNER: self.learner.peer}

    def _conclude(self, outcome: SyncOutcome | None, now: float) -> None:
        if outcome is None:
            return
        sync = outcome.sync
        self._on_end(outcome, now)
        self.figures.results[outcome.result] += 1
        self.figures.failing = 0 if outcome.verified else self.figures.failing + 1
        if outcome.verified:
            self.published = sync.version
            self._fleet.published(sync.version)
        for name in outcome.verified:
            self._fleet.verified(name, sync.version)
            self._greet(name, now)
        for name in outcome.victims:
            self._fleet.failed(name, now, blame=False, kept=name in outcome.kept)
        for name, reason in outcome.culprits.items():
            log.warning("weight sync %d to version %d: %s %s", sync.id, sync.version, name, reason)
            self.figures.last_failure = f"{name} {reason}"
            if name != LEARNER and name not in sync.lost:
                self._fleet.failed(name, now, blame=True, kept=name in outcome.kept)
        for name in outcome.mismatched:
            member = self._fleet.get(name)
            if member is not None:
                self._on_mismatch(member)
        if set(outcome.verified) == set(sync.places) and sync.entered is not None:
            self._sync.took(now - sync.entered)
        if outcome.verified:
            seconds = now - sync.started
            self.figures.seconds.append(seconds)
            log.info(
                "weight sync %d: version %d at %d generators in %.3f s%s",
                sync.id,
                sync.version,
                len(outcome.verified),
                seconds,
                _probe_words(outcome),
            )
        if LEARNER in outcome.culprits:
            self.learner.retry_at = now + LEARNER_RETRY_SECONDS
        for name, peer in self._peers(sync).items():
            if name not in outcome.verified and not (name == LEARNER and sync.sent):
                self._send(peer, self._off(outcome, name))

    def _off(self, outcome: SyncOutcome, name: str) -> SyncAborted:
        return SyncAborted(
            sync=outcome.sync.id,
            reason=outcome.culprits.get(name, self.figures.last_failure),
            refused=name in outcome.culprits and name in outcome.mismatched,
        )

    def _greet(self, name: str, now: float) -> None:
        member = self._fleet.get(name)
        if member is not None and member.syncs == 1:
            waited = now - member.joined
            log.info("%s serves version %d, %.3f s after it joined", name, member.version, waited)


def _probe_words(outcome: SyncOutcome) -> str:
    if not outcome.distances:
        return ""
    most = max(outcome.distances.values())
    return f"; log-probs of the probe differ by {most:.2g} (bound {outcome.level:.2g})"


def _receipt(message: Applied | Sent) -> Receipt:
    # A probe that is cut off counts as none, and so does not match.
    whole = len(message.probe) % 4 == 0
    probe = np.frombuffer(message.probe, dtype="<f4").tolist() if whole else []
    seconds = message.seconds if isinstance(message, Sent) else None
    return Receipt(checksums=message.checksums, probe=probe, seconds=seconds)
