"""What must hold after every turn of the coordinator, whatever went wrong until then."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from asyncds.protocol.codec import ProtocolError, decode_group, unpack_group
from asyncds.rollout.attempts import DEATHS_PER_FAILURE
from asyncds.rollout.lifecycle import OpenState
from services.coordinator.coordinator import Coordinator
from tests.simulation.simulated_generator import UNSENT, VOCABULARY, SimGenerator

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Sent = list[tuple[bytes, wire.Message]]


class Invariants:
    """Raises AssertionError at the first turn after which one does not hold.

    timeline: the leases trained at each step, since the checkpoint that the learner began from.
    lags: of what was trained, by the versions of its tokens. blunders: failures reported and
    malformed groups made, by lease. base_evaluated: the base model was.
    """

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim
        self.timeline: dict[int, set[int]] = {}
        self.lags: list[int] = []
        self.blunders: Counter[int] = Counter()
        self.base_evaluated = False
        self._owners: dict[int, bytes] = {}
        self._newest_sync = self._newest_epoch = 0
        self._published: tuple[str, int] = ("", -1)
        self._n_tries = 0

    def coordinator_started(self) -> None:
        """Another one: who has which lease it learns from them."""
        self._owners.clear()

    def learner_started(self, step: int) -> None:
        """From a checkpoint: what came after it may be trained again."""
        self.timeline = {s: b for s, b in self.timeline.items() if s < step}

    def check(
        self,
        coordinator: Coordinator,
        *,
        sent: Sent,
        delivered: set[int],
        accepted: list[dict[str, Any]],
    ) -> None:
        """sent: by the coordinator in this turn. delivered: leases whose group, well-formed, it was
        given, and of which nobody said that they failed. accepted: what it wrote into the journal
        for groups."""
        self._leases(coordinator)
        self._bounds(coordinator)
        self._tries()
        self._acknowledged_is_journaled(sent, delivered)
        for group in accepted:
            self._weights_of(group)
        for peer, message in sent:
            if isinstance(message, wire.Grant):
                self._granted(coordinator, peer, message)
            if isinstance(message, wire.Cancel | wire.Ack):
                for lease in message.leases:
                    if self._owners.get(lease) == peer:
                        del self._owners[lease]
        self._syncs(coordinator, sent)
        self._evaluations()
        if self._sim.config.rollout.dynamic_sampling.enabled:
            self._dynamic_sampling()

    def trained(self, step: int, shards: list[Any]) -> None:
        """A learner trained on a batch: each group whole and once, none too old."""
        config = self._sim.config
        sequences: Counter[int] = Counter()
        for shard in shards:
            assert shard.step == step
            sequences.update(shard.prompt_ids[::2].tolist())
            version = step // config.weights.publish_every
            self.lags.append(version - int(shard.versions.min()))
            assert self.lags[-1] <= config.rollout.max_lag
        assert len(sequences) == config.rollout.groups_per_step
        assert set(sequences.values()) == {config.rollout.group_size}
        again = set(sequences) & set().union(*self.timeline.values())
        assert not again, f"leases {again} trained twice"
        assert self.base_evaluated, "the base model is evaluated before anything is trained"
        assert step not in self.timeline
        assert step < config.steps
        self.timeline[step] = set(sequences)

    # --- leases ---------------------------------------------------------------------------------

    def _leases(self, coordinator: Coordinator) -> None:
        """Every lease is accounted for; the dead have none; one batch is in hand."""
        counts = self._sim.journal.counts()
        leased, waiting = counts.get("leased", 0), counts.get("delivered", 0)
        table = coordinator.parts.leases.open
        assert table.outstanding == leased + waiting
        assert table.count(OpenState.DELIVERED) == waiting
        assert counts.get("batched", 0) <= self._sim.config.rollout.groups_per_step
        if not coordinator.state.final:
            for member in coordinator.parts.fleet:
                if member.health is Health.DEAD:
                    assert coordinator.parts.leases.open.leases_of(member.name) == 0
        assert all(self._sim.journal.ended()), "a lease ends with a reason"

    def _bounds(self, coordinator: Coordinator) -> None:
        """Nothing piles up, neither leases in work nor groups that wait."""
        config, rollout = self._sim.config, self._sim.config.rollout
        ahead = (rollout.resolved_target_lag + 1) * config.weights.publish_every
        undone = config.checkpoint.every + 1  # batches that a learner's restart gives back
        outstanding = coordinator.parts.leases.open.outstanding
        assert outstanding <= (ahead + undone) * rollout.groups_per_step
        largest = max(rollout.group_size, config.eval.n_samples)
        for member in coordinator.parts.fleet:
            assert coordinator.parts.leases.open.load(member.name) < member.capacity + largest

    def _granted(self, coordinator: Coordinator, peer: bytes, grant: wire.Grant) -> None:
        """Only to who has the published weights, and shown that; of each lease one owner."""
        member = coordinator.parts.fleet.by_peer(peer)
        assert member is not None
        assert member.health is Health.HEALTHY
        for lease in grant.leases:
            owner = self._owners.get(lease.id, peer)
            alive = coordinator.parts.fleet.by_peer(owner)
            assert owner == peer or alive is None, f"lease {lease.id} has two owners"
            self._owners[lease.id] = peer
        generator = self._sim.peers.get(peer)
        if generator is not None and generator.alive and coordinator.parts.weights.current is None:
            assert isinstance(generator, SimGenerator)
            weights = generator.weights
            assert weights is not None
            assert weights.wrong is None
            assert (weights.incarnation, weights.version) == (self._incarnation(), member.version)

    def _acknowledged_is_journaled(self, sent: Sent, delivered: set[int]) -> None:
        acked = {i for _, m in sent if isinstance(m, wire.Ack) for i in m.leases} & delivered
        if acked:
            open_ = {r.id for r in self._sim.journal.leases("leased")}
            open_ |= {r.id for r in self._sim.journal.leases("leased", purpose="eval")}
            assert not acked & open_

    def _tries(self) -> None:
        """One blunder burns one try, however often it is told; lost generators burn none."""
        db = self._sim.journal._db
        (n,) = db.execute("SELECT count(*) FROM tries").fetchone()
        if n == self._n_tries:
            return
        self._n_tries = n
        rows = db.execute("SELECT lease, outcome, reason FROM tries").fetchall()
        overran = Counter(i for i, _, reason in rows if reason.startswith("no delivery within"))
        failed = Counter(i for i, outcome, _ in rows if outcome == "failed")
        died = Counter(i for i, outcome, _ in rows if outcome == "died")
        assert failed - overran <= self.blunders
        for lease in self._sim.journal.leases("failed"):
            counted = failed[lease.id] + died[lease.id] // DEATHS_PER_FAILURE
            assert counted >= self._sim.config.rollout.max_attempts

    def _dynamic_sampling(self) -> None:
        """What is dropped has no signal, and the learner is not kept waiting for ever."""
        r = self._sim.config.rollout
        delivered, dropped, of_one_verdict = self._sim.journal._db.execute(
            "SELECT count(*), total(l.reason = 'zero_signal'),"
            " total(l.reason = 'zero_signal' AND g.n_correct IN (0, g.n))"
            " FROM groups g JOIN leases l ON l.id = g.lease WHERE l.purpose = 'train'"
        ).fetchone()
        assert of_one_verdict == dropped
        batches = (delivered - dropped) // r.groups_per_step + 1
        assert dropped <= r.dynamic_sampling.max_dropped * r.groups_per_step * batches

    # --- weights --------------------------------------------------------------------------------

    def _incarnation(self) -> str:
        gangs: list[str] = json.loads(self._sim.journal.meta("learners") or '[""]')
        return gangs[-1]

    def _weights_of(self, accepted: dict[str, Any]) -> None:
        """A group that is accepted was made by weights that a learner sent; one of an evaluation by
        one version of one learner."""
        assert accepted["newest"] < UNSENT
        group = unpack_group(decode_group(accepted["payload"]))
        made_by = self._sim.made_by[int(group.prompt_ids[1])]
        for weights in made_by:
            assert weights.wrong is None, "wrong weights serve"
        (purpose,) = self._sim.journal._db.execute(
            "SELECT purpose FROM leases WHERE id = ?", (accepted["lease"],)
        ).fetchone()
        if purpose == "eval":
            assert accepted["oldest"] == accepted["newest"]
            assert len({(w.incarnation, w.version) for w in made_by}) == 1

    def _syncs(self, coordinator: Coordinator, sent: Sent) -> None:
        """Broadcasts and epochs have ever higher numbers, and a place for everybody; none begins
        while an evaluation is open."""
        places: dict[int, list[int]] = {}
        for _, message in sent:
            if isinstance(message, wire.Prepare):
                assert coordinator.parts.leases.round is None
                assert message.sync >= self._newest_sync
                assert message.epoch >= self._newest_epoch
                self._newest_sync, self._newest_epoch = message.sync, message.epoch
                places.setdefault(message.sync, []).append(message.rank)
                assert message.rank < message.world_size
        for ranks in places.values():
            assert len(set(ranks)) == len(ranks)
        incarnation, version = self._incarnation(), coordinator.parts.weights.published
        if version >= 0:
            assert incarnation != self._published[0] or version >= self._published[1]
            self._published = (incarnation, version)

    def _evaluations(self) -> None:
        """The base model is evaluated first."""
        if not self.base_evaluated:
            for first in self._sim.journal.evaluations()[:1]:
                assert (first.version, first.step) == (0, 0)
                self.base_evaluated = True


def well_formed(message: wire.Delivered) -> bool:
    """Whether a group may be accepted."""
    try:
        group = unpack_group(message.group)
    except ProtocolError:
        return False
    return bool(group.completion_ids.max() < VOCABULARY and group.versions.max() < UNSENT)
