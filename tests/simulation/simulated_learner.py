"""A simulated learner: ranks that ask for batches, weights that are numbers, checkpoints."""

import zlib
from typing import TYPE_CHECKING, Any

from asyncds.protocol import wire
from asyncds.protocol.codec import unpack_shard
from tests.simulation.simulated_generator import VOCABULARY
from tests.simulation.simulated_peer import Peer

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class LearnerRank(Peer):
    """One rank's link; the worker group's state is the learner's."""

    def __init__(self, sim: "Simulation", learner: "SimLearner", rank: int) -> None:
        super().__init__(sim, f"learner-{rank}", learner.incarnation)
        self.learner, self.rank = learner, rank
        self.asked = -10.0

    def hello(self) -> wire.Message:
        learner = self.learner
        return wire.LearnerHello(
            name=self.name,
            incarnation=learner.incarnation,
            protocol=wire.PROTOCOL,
            rank=self.rank,
            ranks=learner.n_ranks,
            step=learner.step,
            tokenizer="t",
            vocab_size=VOCABULARY,
        )

    def heartbeat(self) -> wire.Message:
        learner = self.learner
        staged = learner.staged if self.rank == 0 else -1
        return wire.LearnerHeartbeat(
            rank=self.rank, staged=staged, checkpoint=learner.saved, phase="x"
        )

    def receive(self, message: wire.Message) -> None:
        self.learner.receive(self, message)


class SimLearner:
    """A worker group that starts from the newest checkpoint."""

    def __init__(self, sim: "Simulation", incarnation: str) -> None:
        self.sim, self.incarnation = sim, incarnation
        self.n_ranks = sim.config.learner.ranks
        self.step = max(sim.checkpoint, 0)
        self.saved = self.step or -1
        self.shards: dict[int, Any] = {}
        self.busy_until = 0.0
        self.saving: int | None = None
        self.kept: list[int] = []
        self.finished = False
        self.staged = self.step // sim.config.weights.publish_every
        self.prepare: wire.Prepare | None = None
        self.agreed_until = 0.0
        self.report: dict[str, float] = {}
        self.ranks = [LearnerRank(sim, self, r) for r in range(self.n_ranks)]

    def receive(self, rank: LearnerRank, message: wire.Message) -> None:
        now = self.sim.now
        match message:
            case wire.Batch():
                if message.step == self.step and rank.rank not in self.shards:
                    self.shards[rank.rank] = unpack_shard(message)
                    if len(self.shards) == self.n_ranks:
                        self.busy_until = now + self.sim.rng.uniform(0.2, 2.0)
            case wire.Finish():
                self.finished = True
            case wire.LearnerAck(keep=steps):
                self.kept = steps
            case wire.Prepare() if not self.sim.sending(self):
                self.prepare, self.agreed_until = message, now + 4
                rank.send(
                    wire.Prepared(
                        sync=message.sync,
                        version=self.staged,
                        rendezvous="r",
                        layout=self.incarnation,
                        tensors=b""
                        if message.layout == self.incarnation
                        else self.incarnation.encode(),
                        checksums=self.checksums(),
                    )
                )
            case wire.Go(sync=sync):
                if self.prepare is not None and self.prepare.sync == sync:
                    self.sim.transfer(sync, self.prepare).enter(self)
                self.prepare = None
            case wire.SyncAborted():
                self.prepare = None
            case wire.Refused() | wire.Drain():
                self.sim.leave(self, restart=isinstance(message, wire.Refused))

    def checksums(self) -> list[int]:
        """Of the staged weights. They depend on whose they are: a mixed-up version is noticed."""
        return [zlib.crc32(f"{self.incarnation} {self.staged}".encode())]

    def turn(self, now: float) -> None:
        if self.prepare is not None and now > self.agreed_until:
            self.prepare = None
        held = self.prepare is not None or self.sim.sending(self)
        if self.saving is not None and now >= self.busy_until:
            self.saved, self.saving = self.saving, None
            self.sim.checkpoint = self.saved
            self.sim.checkpointed(self.saved, self.kept)
            self.ranks[0].send(self.ranks[0].heartbeat())
        if now < self.busy_until:
            return
        if len(self.shards) == self.n_ranks and not held:
            self._train(now)
        elif not self.shards and self.finished and self.saved < self.step:
            self.saving, self.busy_until = self.step, now + 0.5
        for rank in self.ranks:
            if rank.rank not in self.shards and not self.finished and now - rank.asked >= 2:
                rank.asked = now
                rank.send(
                    wire.BatchRequest(rank=rank.rank, step=self.step, report=dict(self.report))
                )

    def _train(self, now: float) -> None:
        self.sim.always.trained(self.step, list(self.shards.values()))
        self.shards.clear()
        self.step += 1
        self.report = {"loss": 1.0}
        every = self.sim.config.weights.publish_every
        if self.step % every == 0:
            self.staged = self.step // every
        if self.step % self.sim.config.checkpoint.every == 0:
            self.saving, self.busy_until = self.step, now + 0.5
        for rank in self.ranks:
            rank.asked = -10.0
