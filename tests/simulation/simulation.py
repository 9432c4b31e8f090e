"""A run without processes and without a clock: the real `Coordinator` among simulated peers.

Time moves in steps of 0.1 s. Messages are encoded and travel, over real sockets or without; on the
way they are delayed and, as a seed decides, lost, doubled or overtaken by others; connections are
cut; generators, the learner and the coordinator die and return. After every turn of the coordinator
`Invariants` checks what must always hold.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncds.config.schema import RunConfig
from asyncds.protocol import wire
from asyncds.protocol.codec import decode_from_coordinator, decode_to_coordinator, encode
from asyncds.protocol.records import EvaluationRecord, StepRecord
from asyncds.rollout.journal import Journal
from asyncds.telemetry.traces.traces import Traces
from services.coordinator.coordinator import Coordinator
from services.coordinator.events import EvaluationFinished, StepTrained
from services.coordinator.traces import open_journal, trace_syncs
from tests.simulation.simulated_faults import Faults
from tests.simulation.simulated_generator import SimGenerator, Weights
from tests.simulation.simulated_invariants import Invariants, well_formed
from tests.simulation.simulated_learner import SimLearner
from tests.simulation.simulated_links import Links, NoLinks
from tests.simulation.simulated_network import Network
from tests.simulation.simulated_peer import Peer
from tests.simulation.simulated_transfer import Transfer

TURN = 0.1
LATEST = 4.0
"""Seconds within which what was sent has arrived, if ever."""


class KilledError(Exception):
    """The coordinator died in the middle of a turn."""


class Simulation:
    """`run` returns when the coordinator is over. Everything random comes from `seed`.
    chance: of a completion to be correct."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        config: RunConfig,
        generators: int = 2,
        faults: Faults | None = None,
        chance: float = 0.5,
        seed: int = 0,
        links: Links | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.config, self.faults = config, faults or Faults()
        self.traces = traces or Traces(None, run="r", role="coordinator", name="c")
        self.chance = chance
        self.rng = random.Random(seed)
        self.network = Network(faults=self.faults, rng=self.rng)
        self.links = links or NoLinks()
        self.always = Invariants(self)
        self.peers: dict[bytes, Peer] = {}
        self.made_by: list[frozenset[Weights]] = []
        """What groups were made by; `number` adds to it."""
        self.transfers: dict[int, Transfer] = {}
        self.checkpoint = -1
        self.checkpoints: list[int] = []
        """Those that are on the disk."""
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self._path = tmp_path / "journal.db"
        self.frames_up = self.frames_down = 0
        """Frames that the coordinator got, and that it sent."""
        self._births = itertools.count(1)
        self._inbox: list[tuple[bytes, bytes]] = []
        self._outbox: list[tuple[bytes, wire.Message]] = []
        self._accepted: list[dict[str, Any]] = []
        self.generators: dict[str, SimGenerator] = {}
        self.learner: SimLearner | None = None
        self.start_coordinator()
        for i in range(generators):
            self.start_generator(f"generator-{i}")
        self.start_learner()

    # --- processes ------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        self.journal = open_journal(self._path, self.traces)
        self.traces.run_id = self.journal.run_id()
        # Nothing here survives a power cut, so nothing need wait for the disk.
        self.journal._db.execute("PRAGMA synchronous=OFF")
        self.coordinator: Coordinator | None = Coordinator(
            config=self.config,
            journal=self.journal,
            send=lambda peer, message: self._outbox.append((peer, message)),
            now=self.now,
        )
        self._watch_groups(self.journal)
        self.links.start_coordinator()
        self.always.coordinator_started()

    def _watch_groups(self, journal: Journal) -> None:
        deliver = journal.deliver

        def watched(**group: Any) -> bool:
            written = deliver(**group)
            if written:
                self._accepted.append(group)
            return written

        journal.deliver = watched  # type: ignore[method-assign]

    def introduce(self, peer: Peer) -> None:
        """A process begins."""
        self.peers[peer.peer] = peer
        self.links.connect(peer.peer)

    def start_generator(self, name: str) -> None:
        self.generators[name] = SimGenerator(self, name, f"i{next(self._births)}")

    def start_learner(self) -> None:
        self.always.learner_started(max(self.checkpoint, 0))
        self.learner = SimLearner(self, f"group{next(self._births)}")

    def kill_coordinator(self, back_after: float) -> None:
        self.coordinator = None
        self._outbox.clear()
        self._accepted.clear()
        self.journal.close()
        self.links.kill_coordinator()
        if self.rng.random() < 0.5:
            self._inbox.clear()
        self.after(back_after, self.start_coordinator)

    def leave(self, process: "SimGenerator | SimLearner", *, restart: bool) -> None:
        links = [process] if isinstance(process, SimGenerator) else process.ranks
        for link in links:
            if link.alive:
                link.send(wire.Bye(reason="told to"))
        self.kill(process, back_after=2 if restart else None)

    def kill(self, process: "SimGenerator | SimLearner", back_after: float | None) -> None:
        if not self.lives(process):
            return
        links = [process] if isinstance(process, SimGenerator) else process.ranks
        for link in links:
            link.alive = False
            self.after(LATEST, lambda link=link: self._forget(link))
        if isinstance(process, SimGenerator):
            if back_after is not None:
                self.after(back_after, lambda: self.start_generator(process.name))
        else:
            self.learner = None
            if back_after is not None:
                self.after(back_after, self.start_learner)

    def _forget(self, link: Peer) -> None:
        self.links.disconnect(link.peer)
        self.peers.pop(link.peer, None)

    def lives(self, process: "SimGenerator | SimLearner") -> bool:
        return process.alive if isinstance(process, SimGenerator) else process is self.learner

    def transfer(self, sync: int, prepare: wire.Prepare) -> Transfer:
        new = Transfer(sim=self, sync=sync, size=prepare.world_size, deadline=prepare.deadline)
        return self.transfers.setdefault(sync, new)

    def sending(self, process: "SimGenerator | SimLearner") -> bool:
        """Whether it is in a collective, and can't join another."""
        return any(process in t.entered for t in self.transfers.values())

    def checkpointed(self, step: int, kept: list[int]) -> None:
        """The learner has saved, and deletes what is not to be kept."""
        saved = sorted({*self.checkpoints, step})
        last = self.config.checkpoint.keep_last
        self.checkpoints = [s for s in saved if s in saved[-last:] or s in kept]

    def close(self) -> None:
        """Close the connections and the journal."""
        self.links.close()
        self.journal.close()

    def number(self, made_by: set[Weights]) -> int:
        """Of these weights, for groups to carry."""
        self.made_by.append(frozenset(made_by))
        return len(self.made_by) - 1

    @property
    def timeline(self) -> dict[int, set[int]]:
        """Leases trained at each step, since the checkpoint that the learner began from."""
        return self.always.timeline

    # --- the network ----------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds."""
        return self.network.now

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do something later."""
        self.network.after(seconds, action)

    def faulty(self, probability: float) -> bool:
        """Whether a fault of this probability happens."""
        return self.network.faulty(probability)

    def to_coordinator(self, peer: Peer, message: wire.Message) -> None:
        """A peer speaks."""
        frame = encode(message)
        self.network.carry(peer, up=True, arrive=lambda: self._inbox.append((peer.peer, frame)))

    def _to_peer(self, id: bytes, frame: bytes) -> None:
        peer = self.peers.get(id)
        if peer is not None:
            self.network.carry(
                peer,
                up=False,
                arrive=lambda: peer.alive and peer.take(decode_from_coordinator(frame)),
            )

    def cut(self, peer: Peer, seconds: float) -> None:
        """Its connection breaks; on the new one nothing passes for a while."""
        peer.cut_until = self.now + seconds
        self.links.connect(peer.peer)

    # --- time -----------------------------------------------------------------------------------

    def run(self, limit: float, until: Callable[[], bool] = lambda: False) -> None:
        """Until the run is over, `until` holds, or AssertionError after `limit` seconds."""
        end = self.now + limit
        while not until():
            if self.coordinator is not None and self.coordinator.end.over(self.now):
                with self.journal.transaction():
                    self.coordinator.end.ended(self.now)
                return
            assert self.now < end, (
                "no end after "
                f"{limit:g} s: {self.coordinator and self.coordinator.status(self.now)}"
            )
            self.turn()

    def turn(self) -> None:
        self.network.now += TURN
        self.network.due()
        self._misfortunes()
        self.peers_turn()
        if self.coordinator is not None:
            try:
                self._coordinator_turn(self.coordinator)
            except KilledError:
                self.kill_coordinator(self.rng.uniform(0.5, 5))

    def peers_turn(self) -> None:
        """Generators and learner do what is due."""
        for generator in self.generators.values():
            if generator.alive:
                generator.turn(self.now)
                generator.link_turn(self.now)
        if self.learner is not None:
            self.learner.turn(self.now)
            for rank in self.learner.ranks:
                rank.link_turn(self.now)

    def _misfortunes(self) -> None:
        f = self.faults
        for generator in list(self.generators.values()):
            if generator.alive and self.faulty(f.kill_generator * TURN):
                self.kill(generator, self.rng.uniform(1, 15))
        if self.learner is not None and self.faulty(f.kill_learner * TURN):
            self.kill(self.learner, self.rng.uniform(1, 15))
        for peer in list(self.peers.values()):
            if peer.alive and self.faulty(f.cut * TURN):
                self.cut(peer, self.rng.uniform(0.5, 12))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        dies = self.faulty(self.faults.kill_coordinator * TURN)
        before_commit = dies and self.rng.random() < 0.5
        with self.journal.transaction():
            yield
            if before_commit:
                raise KilledError
        if dies:
            raise KilledError

    def _coordinator_turn(self, coordinator: Coordinator) -> None:
        frames, self._inbox = self.links.up(self._inbox), []
        self.frames_up += len(frames)
        delivered: set[int] = set()
        failed: set[int] = set()
        with self._transaction():
            for peer, frame in frames:
                message = decode_to_coordinator(frame)
                if isinstance(message, wire.Delivered) and well_formed(message):
                    delivered.add(message.lease)
                elif isinstance(message, wire.LeaseFailed):
                    failed.add(message.lease)
                coordinator.handle(peer, message, self.now)
            coordinator.tick(self.now)
        events = coordinator.take_events()
        self.steps += [e.record for e in events if isinstance(e, StepTrained)]
        self.evaluations += [e.record for e in events if isinstance(e, EvaluationFinished)]
        trace_syncs(self.traces, events)
        sent, self._outbox = self._outbox, []
        self.frames_down += len(sent)
        accepted, self._accepted = self._accepted, []
        self.always.check(coordinator, sent=sent, delivered=delivered - failed, accepted=accepted)
        for peer, frame in self.links.down([(peer, encode(message)) for peer, message in sent]):
            self._to_peer(peer, frame)
