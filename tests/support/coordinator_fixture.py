"""A coordinator to talk to, one message at a time."""

from pathlib import Path
from typing import Any

import msgspec

from asyncds.fleet.membership import Health
from asyncds.protocol import wire
from asyncds.protocol.codec import pack_group
from asyncds.protocol.state import State
from asyncds.rollout.journal import Journal
from services.coordinator.coordinator import Coordinator
from services.coordinator.events import Stalled
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_generator import VOCABULARY
from tests.support.rollout_groups import make_group

GENERATOR = wire.GeneratorHello(
    name="g",
    incarnation="g1",
    protocol=wire.PROTOCOL,
    workers=1,
    capacity=4,
    tokenizer="t",
    data="d",
    rows={"train": 9, "eval": 3},
    multiplicity={"written": [2, 0]},
    sets=[],
    leases=[],
)
LEARNER = wire.LearnerHello(
    name="learner-0",
    incarnation="l1",
    protocol=wire.PROTOCOL,
    rank=0,
    ranks=1,
    step=0,
    tokenizer="t",
    vocab_size=VOCABULARY,
)
REPLACE = msgspec.structs.replace
DYNAMIC_SAMPLING = {
    "rollout__dynamic_sampling": {"enabled": True, "max_dropped": 1},
    "algorithm": {"advantage": {"kind": "grpo"}},
}


class Driver:
    """A coordinator, and what it said to each peer since it was last asked."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.journal = Journal(path / "journal.db")
        self.now = 0.0
        self._sent: list[tuple[bytes, wire.Message]] = []
        self.c = Coordinator(
            config=make_config(**config),
            journal=self.journal,
            send=lambda peer, message: self._sent.append((peer, message)),
            now=0.0,
        )

    @property
    def stalls(self) -> list[str]:
        """Reasons of stalls since it was last asked."""
        return [e.reason for e in self.c.take_events() if isinstance(e, Stalled)]

    def close(self) -> None:
        self.journal.close()

    def say(self, peer: bytes, *messages: wire.Message) -> list[wire.Message]:
        """Handle messages of one peer, then a tick; what was sent to it."""
        for message in messages:
            self.c.handle(peer, message, self.now)  # type: ignore[arg-type]
        return self.tick(peer)

    def tick(self, peer: bytes, seconds: float = 0.0) -> list[wire.Message]:
        self.now += seconds
        self.c.tick(self.now)
        sent = [m for p, m in self._sent if p == peer]
        self._sent = [(p, m) for p, m in self._sent if p != peer]
        return sent

    def member(self, name: str = "g") -> Health:
        found = self.c.parts.fleet.get(name)
        assert found is not None
        return found.health

    def synced(self, *names: str, version: int = 0) -> None:
        """Take the broadcast under way to its good end."""
        staged = wire.LearnerHeartbeat(rank=0, staged=version, checkpoint=-1, phase="")
        self.say(b"l", staged)
        sync = self.c.parts.weights.current
        assert sync is not None
        assert set(sync.places) == set(names)
        probe = b"\0\0\0\0"
        for name in names:
            self.say(name.encode(), wire.Prepared(sync=sync.id))
        self.say(b"l", wire.Prepared(sync=sync.id, version=version))
        for name in names:
            applied = wire.Applied(sync=sync.id, checksums=[1], probe=probe, pause_seconds=0)
            self.say(name.encode(), applied)
        sent = wire.Sent(sync=sync.id, checksums=[1], probe=probe, seconds=0)
        self.say(b"l", sent)


def only(messages: list[wire.Message], kind: type) -> list[Any]:
    return [m for m in messages if isinstance(m, kind)]


def leases(messages: list[wire.Message]) -> list[wire.Lease]:
    return [lease for grant in only(messages, wire.Grant) for lease in grant.leases]


def delivered(lease: wire.Lease, **changes: Any) -> wire.Delivered:
    group = pack_group(make_group(n=lease.group_size, prompt=(lease.id,), **changes))
    return wire.Delivered(lease=lease.id, attempt=lease.attempt, group=group)


def failed(lease: wire.Lease, reason: str, *, permanent: bool = False) -> wire.LeaseFailed:
    return wire.LeaseFailed(
        lease=lease.id, attempt=lease.attempt, reason=reason, permanent=permanent
    )


def running(driver: Driver, *, evaluate: bool = True) -> list[wire.Lease]:
    """Join both, sync, and answer the base evaluation; the first training leases."""
    driver.say(b"l", LEARNER)
    driver.say(b"g", GENERATOR)
    driver.synced("g")
    granted = leases(driver.tick(b"g"))
    assert driver.c.state is State.RUNNING
    while evaluate and any(lease.split == "eval" for lease in granted):
        done = [delivered(lease) for lease in granted if lease.split == "eval"]
        train = [lease for lease in granted if lease.split == "train"]
        granted = train + leases(driver.say(b"g", *done))
    return granted


def running_ids(driver: Driver) -> list[int]:
    return [row.id for row in driver.journal.leases("leased")]
