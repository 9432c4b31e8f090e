"""A simulated generator: no engine, but weights that it truly has, or has not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncds.protocol import wire
from asyncds.protocol.codec import pack_group
from tests.simulation.simulated_peer import Peer
from tests.support.rollout_groups import make_group

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

VOCABULARY = 100_000
UNSENT = 1000
"""A version of no weights that there are."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What an engine truly computes with. wrong: the broadcast since which it is not the learner's,
    although the bytes are."""

    incarnation: str
    version: int
    wrong: int | None = None


@dataclass(kw_only=True)
class Work:
    """A lease in work. version: of the weights it began on. made_by: all weights it was made by."""

    lease: wire.Lease
    done: float
    version: int
    made_by: set["Weights"]


class SimGenerator(Peer):
    """Samples groups whose prompt is the lease's id, and the number of what they were made by, on
    weights it got by simulated broadcasts. Without valid weights it stands still."""

    def __init__(self, sim: "Simulation", name: str, identity: str) -> None:
        super().__init__(sim, name, identity)
        self.incarnation = identity
        self.weights: Weights | None = None
        """None: an update failed, or none has come."""
        self.version = -1
        self.work: dict[int, Work] = {}
        self.unacknowledged: dict[int, tuple[wire.Message, float]] = {}
        self.prepared: wire.Prepare | None = None
        self.layout = ""
        """What stands for the list of tensors that it knows."""
        self.expected: list[int] = []
        self.probed = False
        """Checksums of what is to come, and whether it is to show what it computes."""

    def leases(self) -> list[int]:
        return [*self.work, *self.unacknowledged]

    def hello(self) -> wire.Message:
        return wire.GeneratorHello(
            name=self.name,
            incarnation=self.incarnation,
            protocol=wire.PROTOCOL,
            workers=1,
            capacity=8,
            tokenizer="t",
            data="d",
            rows={"train": 50, "eval": 5},
            multiplicity={"written": [2] * 5},
            sets=[("hard", 2), ("easy", 3)],
            leases=self.leases(),
        )

    def heartbeat(self) -> wire.Message:
        return wire.GeneratorHeartbeat(leases=self.leases(), stats={})

    def receive(self, message: wire.Message) -> None:
        now = self.sim.now
        match message:
            case wire.Welcome():
                self._resend(now, 0)
            case wire.Grant(leases=leases):
                for lease in leases:
                    if lease.id in self.unacknowledged:
                        self._resend(now, 0)
                    elif lease.id not in self.work:
                        self.work[lease.id] = Work(
                            lease=lease,
                            done=now + self._duration(lease),
                            version=self.version,
                            made_by={self.weights} if self.weights else set(),
                        )
            case wire.Ack(leases=leases):
                for id in leases:
                    self.unacknowledged.pop(id, None)
            case wire.Cancel(leases=leases):
                for id in leases:
                    self.unacknowledged.pop(id, None)
                    self.work.pop(id, None)
            case wire.Prepare():
                if self.sim.sending(self):
                    self.send(wire.SyncFailed(sync=message.sync, reason="busy"))
                    return
                self.prepared = message
                self.send(wire.Prepared(sync=message.sync, layout=self.layout))
            case wire.Go(sync=sync):
                if self.prepared is not None and self.prepared.sync == sync:
                    self.layout = message.tensors.decode() or self.layout
                    assert self.layout == message.layout, "it would not know what comes"
                    self.expected = message.checksums
                    self.probed = self.prepared.probe
                    self.sim.transfer(sync, self.prepared).enter(self)
                self.prepared = None
            case wire.SyncAborted():
                self.prepared = None
            case wire.GivenUp():
                self.sim.kill(self, back_after=0.0)  # another incarnation of the same process
            case wire.Refused() | wire.Drain():
                self.sim.leave(self, restart=isinstance(message, wire.Refused))

    def _duration(self, lease: wire.Lease) -> float:
        rng = self.sim.rng
        if rng.random() < 0.05:
            return lease.straggler_seconds * rng.uniform(0.5, 3.0)
        return rng.uniform(0.2, 1.5)

    def update(self, weights: Weights | None) -> None:
        """Go on with these weights; None: they are not what was sent, stand still."""
        self.weights = weights
        if weights is not None:
            self.version = weights.version
            for work in self.work.values():
                work.made_by.add(weights)

    def turn(self, now: float) -> None:
        for id, work in list(self.work.items()):
            if now >= work.done and self.weights is not None:
                del self.work[id]
                outcome = self._outcome(work)
                self.unacknowledged[id] = (outcome, now)
                self.send(outcome)
        self._resend(now, 5)

    def _outcome(self, work: Work) -> wire.Message:
        rng, faults, lease = self.sim.rng, self.sim.faults, work.lease
        if self.sim.faulty(faults.failed_lease):
            self.sim.always.blunders[lease.id] += 1
            return wire.LeaseFailed(
                lease=lease.id, attempt=lease.attempt, reason="engine error", permanent=False
            )
        bad = self.sim.faulty(faults.bad_group)
        self.sim.always.blunders[lease.id] += bad
        versions = tuple(v for v in (work.version, self.version) if v >= 0)
        strange_token = bad and rng.random() < 0.5
        if bad and not strange_token:
            versions = (*versions, UNSENT)
        group = make_group(
            n=lease.group_size,
            versions=versions,
            prompt=(lease.id, self.sim.number(work.made_by)),
            correct=tuple(rng.random() < self.sim.chance for _ in range(lease.group_size)),
            token=VOCABULARY if strange_token else 5,
        )
        return wire.Delivered(
            lease=lease.id,
            attempt=lease.attempt,
            group=pack_group(group),
        )

    def _resend(self, now: float, age: float) -> None:
        for id, (message, sent) in list(self.unacknowledged.items()):
            if now - sent >= age:
                self.unacknowledged[id] = (message, now)
                self.send(message)
