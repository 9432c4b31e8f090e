"""A run without processes, sockets or a clock: the real `Coordinator` among simulated peers.

Time moves in steps of 0.1 s. Messages are encoded, delayed, and, as a seed decides, lost, doubled
or overtaken by others; links are cut; generators, the learner and the coordinator die and return.
After every turn of the coordinator `Simulation` checks what must always hold.
"""

import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rollout_groups import make_group

from asyncds.config.schema import RunConfig
from asyncds.fleet.membership import Health
from asyncds.rollout import wire
from asyncds.rollout.codec import (
    ProtocolError,
    decode_from_coordinator,
    decode_to_coordinator,
    encode,
    pack_group,
    unpack_group,
    unpack_shard,
)
from asyncds.telemetry.traces import Traces
from services.coordinator.coordinator import Coordinator
from services.coordinator.traces import open_journal, trace_broadcast
from services.coordinator.tries import DEATHS_PER_FAILURE

TURN = 0.1
VOCABULARY = 100_000
UNSENT = 1000
"""A version of no weights that there are."""


def make_config(**changes: Any) -> RunConfig:
    """A small run; dotted names as in YAML."""
    values: dict[str, Any] = {
        "model": "none",
        "steps": 6,
        "rollout": {
            "groups_per_step": 3,
            "group_size": 2,
            "max_lag": 2,
            "straggler_seconds": 10,
            "lease_seconds": 20,
            "max_attempts": 3,
        },
        "eval": {"every": 3, "n_problems": 3, "n_samples": 2, "interim_samples": 2},
        "checkpoint": {"every": 2},
        "coordinator": {"suspect_seconds": 3, "dead_seconds": 8, "stall_seconds": 200},
        "weights": {"prepare_seconds": 3, "transfer_seconds": 5, "probe_every": 2},
        "learner": {"ranks": 1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section] = values[section] | {name: value}
        else:
            values[section] = value
    return RunConfig.model_validate(values)


@dataclass(kw_only=True)
class Faults:
    """How often what goes wrong. Probabilities are per message, per lease or per second."""

    drop: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    cut: float = 0.0
    kill_generator: float = 0.0
    kill_learner: float = 0.0
    kill_coordinator: float = 0.0
    bad_group: float = 0.0
    failed_lease: float = 0.0
    corrupt: float = 0.0
    until: float = float("inf")
    """Messages arrive and processes live from this second on."""


class Peer:
    """One end of a link, with the rules of asyncds.transport.link."""

    def __init__(self, sim: "Simulation", name: str, identity: str) -> None:
        self.sim, self.name = sim, name
        self.peer = f"{name}:{identity}".encode()
        self.alive = True
        self.welcomed = False
        self.cut_until = 0.0
        self._outbox: list[wire.Message] = []
        self._next_hello = self._next_heartbeat = 0.0
        sim.peers[self.peer] = self

    def hello(self) -> wire.Message:
        raise NotImplementedError

    def heartbeat(self) -> wire.Message:
        raise NotImplementedError

    def receive(self, message: wire.Message) -> None:
        raise NotImplementedError

    def send(self, message: wire.Message) -> None:
        if self.welcomed:
            self.sim.to_coordinator(self, message)
        else:
            self._outbox.append(message)

    def link_turn(self, now: float) -> None:
        if not self.welcomed and now >= self._next_hello:
            self._next_hello = now + 1
            self.sim.to_coordinator(self, self.hello())
        if self.welcomed and now >= self._next_heartbeat:
            self._next_heartbeat = now + 1
            self.sim.to_coordinator(self, self.heartbeat())

    def take(self, message: wire.Message) -> None:
        if isinstance(message, wire.Identify):
            self.welcomed, self._next_hello = False, 0.0
            return
        if isinstance(message, wire.Welcome):
            self.welcomed = True
            queued, self._outbox = self._outbox, []
            for waiting in queued:
                self.send(waiting)
        self.receive(message)


@dataclass(kw_only=True)
class Work:
    lease: wire.Lease
    done: float
    version: int


class SimGenerator(Peer):
    """Samples groups whose prompt is the lease's id, on weights it got by simulated broadcasts."""

    def __init__(self, sim: "Simulation", name: str, identity: str) -> None:
        super().__init__(sim, name, identity)
        self.incarnation = identity
        self.weights: tuple[str, int] | None = None
        """(gang, version) of the weights it truly has."""
        self.version = -1
        self.work: dict[int, Work] = {}
        self.unacknowledged: dict[int, tuple[wire.Message, float]] = {}
        self.prepared: wire.Prepare | None = None

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
            leases=self.leases(),
        )

    def heartbeat(self) -> wire.Message:
        return wire.GeneratorHeartbeat(version=self.version, leases=self.leases(), stats={})

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
                            lease=lease, done=now + self._duration(lease), version=self.version
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
                self.send(wire.Prepared(sync=message.sync))
            case wire.Go(sync=sync):
                if self.prepared is not None and self.prepared.sync == sync:
                    self.sim.transfer(sync, self.prepared).enter(self)
                self.prepared = None
            case wire.SyncAborted():
                self.prepared = None
            case wire.GivenUp():
                self.sim.kill(self, back_after=TURN)  # another incarnation of the same process
            case wire.Refused() | wire.Drain():
                self.sim.leave(self, restart=isinstance(message, wire.Refused))

    def _duration(self, lease: wire.Lease) -> float:
        rng = self.sim.rng
        if rng.random() < 0.05:
            return lease.straggler_seconds * rng.uniform(0.5, 3.0)
        return rng.uniform(0.2, 1.5)

    def turn(self, now: float) -> None:
        for id, work in list(self.work.items()):
            if now >= work.done:
                del self.work[id]
                outcome = self._outcome(work)
                self.unacknowledged[id] = (outcome, now)
                self.send(outcome)
        self._resend(now, 5)

    def _outcome(self, work: Work) -> wire.Message:
        rng, faults, lease = self.sim.rng, self.sim.faults, work.lease
        if self.sim.faulty(faults.failed_lease):
            self.sim.blunders[lease.id] += 1
            return wire.LeaseFailed(
                lease=lease.id, attempt=lease.attempt, reason="engine error", permanent=False
            )
        bad = self.sim.faulty(faults.bad_group)
        self.sim.blunders[lease.id] += bad
        versions = (work.version, self.version) if lease.purpose == "train" else (self.version,)
        strange_token = bad and rng.random() < 0.5
        if bad and not strange_token:
            versions = (*versions, UNSENT)
        group = make_group(
            n=lease.group_size,
            versions=versions,
            prompt=(lease.id,),
            correct=tuple(rng.random() < self.sim.chance for _ in range(lease.group_size)),
            token=VOCABULARY if strange_token else 5,
        )
        return wire.Delivered(
            lease=lease.id,
            attempt=lease.attempt,
            group=pack_group(group),
            sample_seconds=1.0,
            score_seconds=0.1,
        )

    def _resend(self, now: float, age: float) -> None:
        for id, (message, sent) in list(self.unacknowledged.items()):
            if now - sent >= age:
                self.unacknowledged[id] = (message, now)
                self.send(message)


class LearnerRank(Peer):
    """One rank's link; the gang's state is the learner's."""

    def __init__(self, sim: "Simulation", learner: "SimLearner", rank: int) -> None:
        super().__init__(sim, f"learner-{rank}", learner.gang)
        self.learner, self.rank = learner, rank
        self.asked = -10.0

    def hello(self) -> wire.Message:
        learner = self.learner
        return wire.LearnerHello(
            name=self.name,
            incarnation=learner.gang,
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
    """A gang that starts from the newest checkpoint."""

    def __init__(self, sim: "Simulation", gang: str) -> None:
        self.sim, self.gang = sim, gang
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
                        sync=message.sync, version=self.staged, rendezvous="r", layout=b"{}"
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
        self.sim.trained(self.step, list(self.shards.values()))
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


@dataclass(kw_only=True)
class Transfer:
    """A collective: everybody in it gets through if everybody enters and lives, or nobody."""

    sim: "Simulation"
    sync: int
    size: int
    deadline: float
    entered: list["SimGenerator | SimLearner"] = field(default_factory=list)
    version: int = -1

    def enter(self, end: "SimGenerator | SimLearner") -> None:
        self.entered.append(end)
        if isinstance(end, SimLearner):
            self.version = end.staged
        if len(self.entered) == 1:
            self.sim.after(self.deadline, self.close)
        if len(self.entered) == self.size:
            self.sim.after(0.3, self.close)

    def close(self) -> None:
        if self.sim.transfers.pop(self.sync, None) is None:
            return
        whole = len(self.entered) == self.size and all(self.sim.lives(e) for e in self.entered)
        gang = next((e.gang for e in self.entered if isinstance(e, SimLearner)), "")
        # What is sent depends on the learner's weights, so a mixed-up version would be noticed.
        checksums = [hash((gang, self.version)) % 2**32]
        for end in self.entered:
            if not self.sim.lives(end):
                continue
            if not whole:
                link = end if isinstance(end, SimGenerator) else end.ranks[0]
                link.send(wire.SyncFailed(sync=self.sync, reason="timed out"))
                if isinstance(end, SimGenerator):
                    end.weights = None
            elif isinstance(end, SimLearner):
                probe = np.array([-1.0], "<f4").tobytes()
                end.ranks[0].send(
                    wire.Sent(
                        sync=self.sync,
                        version=self.version,
                        checksums=checksums,
                        probe=probe,
                        seconds=0.3,
                    )
                )
            else:
                corrupt = self.sim.faulty(self.sim.faults.corrupt)
                end.weights = None if corrupt else (gang, self.version)
                end.version = self.version
                end.send(
                    wire.Applied(
                        sync=self.sync,
                        version=self.version,
                        checksums=[0] if corrupt else checksums,
                        probe=np.array([-1.0], "<f4").tobytes(),
                        pause_seconds=0.1,
                        receive_seconds=0.2,
                    )
                )


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
        traces: Traces | None = None,
    ) -> None:
        self.config, self.faults = config, faults or Faults()
        self.traces = traces or Traces(None, run="r", role="coordinator", name="c")
        self.chance = chance
        self.rng = random.Random(seed)
        self.now = 0.0
        self.peers: dict[bytes, Peer] = {}
        self.transfers: dict[int, Transfer] = {}
        self.checkpoint = -1
        self.checkpoints: list[int] = []
        """Those that are on the disk."""
        self.timeline: dict[int, set[int]] = {}
        """Leases trained at each step, since the checkpoint that the learner started from."""
        self.blunders: Counter[int] = Counter()
        """Failures reported and malformed groups made, by lease."""
        self.base_evaluated = False
        self.lags: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.log: list[tuple[bytes, wire.Message]] = []
        """All that the coordinator sent."""
        self._path = tmp_path / "journal.db"
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._births = itertools.count(1)
        self._inbox: list[tuple[bytes, bytes]] = []
        self._outbox: list[tuple[bytes, wire.Message]] = []
        self._fifo: dict[tuple[bytes, bool], float] = {}
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
            on_step=self.steps.append,
            on_evaluation=self.evaluations.append,
            on_rewind=lambda: None,
            on_broadcast=partial(trace_broadcast, self.traces),
            on_stall=lambda reason: None,
            now=self.now,
        )

    def start_generator(self, name: str) -> None:
        self.generators[name] = SimGenerator(self, name, f"i{next(self._births)}")

    def start_learner(self) -> None:
        self.timeline = {s: b for s, b in self.timeline.items() if s < max(self.checkpoint, 0)}
        self.learner = SimLearner(self, f"gang{next(self._births)}")

    def kill_coordinator(self, back_after: float) -> None:
        self.coordinator = None
        self._outbox.clear()
        self.journal.close()
        if self.rng.random() < 0.5:
            self._inbox.clear()
        self.after(back_after, self.start_coordinator)

    def leave(self, process: "SimGenerator | SimLearner", *, restart: bool) -> None:
        links = [process] if isinstance(process, SimGenerator) else process.ranks
        for link in links:
            if link.alive:
                link.send(wire.Bye(leases=[], reason="told to"))
        self.kill(process, back_after=2 if restart else None)

    def kill(self, process: "SimGenerator | SimLearner", back_after: float | None) -> None:
        if not self.lives(process):
            return
        if isinstance(process, SimGenerator):
            process.alive = False
            if back_after is not None:
                self.after(back_after, lambda: self.start_generator(process.name))
        else:
            for rank in process.ranks:
                rank.alive = False
            self.learner = None
            if back_after is not None:
                self.after(back_after, self.start_learner)

    def lives(self, process: "SimGenerator | SimLearner") -> bool:
        return process.alive if isinstance(process, SimGenerator) else process is self.learner

    def transfer(self, sync: int, prepare: wire.Prepare) -> Transfer:
        new = Transfer(sim=self, sync=sync, size=prepare.world_size, deadline=prepare.deadline)
        return self.transfers.setdefault(sync, new)

    def sending(self, process: "SimGenerator | SimLearner") -> bool:
        """Whether it is in a collective, and can't join another."""
        return any(process in t.entered for t in self.transfers.values())

    # --- the network ----------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def faulty(self, probability: float) -> bool:
        return self.now < self.faults.until and self.rng.random() < probability

    def to_coordinator(self, peer: Peer, message: wire.Message) -> None:
        frame = encode(message)
        self._carry(peer, True, lambda: self._inbox.append((peer.peer, frame)))

    def _to_peer(self, id: bytes, message: wire.Message) -> None:
        peer = self.peers.get(id)
        if peer is not None:
            frame = encode(message)
            self._carry(
                peer, False, lambda: peer.alive and peer.take(decode_from_coordinator(frame))
            )

    def _carry(self, peer: Peer, up: bool, arrive: Callable[[], Any]) -> None:
        if self.now < peer.cut_until or self.faulty(self.faults.drop):
            return
        for _ in range(2 if self.faulty(self.faults.double) else 1):
            due = self.now + self.rng.uniform(0.01, 0.2)
            if self.faulty(self.faults.overtake):
                due += self.rng.uniform(0, 3)
            else:
                due = max(due, self._fifo.get((peer.peer, up), 0.0))
                self._fifo[peer.peer, up] = due
            self.after(due - self.now, arrive)

    # --- time -----------------------------------------------------------------------------------

    def run(self, limit: float, until: Callable[[], bool] = lambda: False) -> None:
        """Until the run is over, `until` holds, or AssertionError after `limit` seconds."""
        end = self.now + limit
        while not until():
            if self.coordinator is not None and self.coordinator.over(self.now):
                with self.journal.transaction():
                    self.coordinator.ended()
                return
            assert self.now < end, (
                "no end after "
                f"{limit:g} s: {self.coordinator and self.coordinator.status(self.now)}"
            )
            self.turn()

    def turn(self) -> None:
        self.now += TURN
        self._due()
        self._misfortunes()
        for generator in self.generators.values():
            if generator.alive:
                generator.turn(self.now)
                generator.link_turn(self.now)
        if self.learner is not None:
            self.learner.turn(self.now)
            for rank in self.learner.ranks:
                rank.link_turn(self.now)
        if self.coordinator is not None:
            try:
                self._coordinator_turn(self.coordinator)
            except KilledError:
                self.kill_coordinator(self.rng.uniform(0.5, 5))

    def _due(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def _misfortunes(self) -> None:
        f = self.faults
        for generator in list(self.generators.values()):
            if generator.alive and self.faulty(f.kill_generator * TURN):
                self.kill(generator, self.rng.uniform(1, 15))
        if self.learner is not None and self.faulty(f.kill_learner * TURN):
            self.kill(self.learner, self.rng.uniform(1, 15))
        for peer in self.peers.values():
            if peer.alive and self.faulty(f.cut * TURN):
                peer.cut_until = self.now + self.rng.uniform(0.5, 12)

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
        frames, self._inbox = self._inbox, []
        delivered: set[int] = set()
        with self._transaction():
            for peer, frame in frames:
                message = decode_to_coordinator(frame)
                if isinstance(message, wire.Delivered) and _valid(message):
                    delivered.add(message.lease)
                coordinator.handle(peer, message, self.now)
            coordinator.tick(self.now)
        sent, self._outbox = self._outbox, []
        self._check(coordinator, sent, delivered)
        self.log += sent
        for peer, message in sent:
            self._to_peer(peer, message)

    # --- what must always hold ------------------------------------------------------------------

    def trained(self, step: int, shards: list[Any]) -> None:
        """A learner trained on a batch: each group once, none too old."""
        sequences: dict[int, int] = {}
        for shard in shards:
            assert shard.step == step
            for lease in shard.prompt_ids.tolist():
                sequences[lease] = sequences.get(lease, 0) + 1
            version = step // self.config.weights.publish_every
            self.lags.append(version - int(shard.versions.min()))
            assert self.lags[-1] <= self.config.rollout.max_lag
        assert len(sequences) == self.config.rollout.groups_per_step
        assert set(sequences.values()) == {self.config.rollout.group_size}
        again = set(sequences) & set().union(*self.timeline.values())
        assert not again, f"leases {again} trained twice"
        assert self.base_evaluated, "the base model is evaluated before anything is trained"
        assert step not in self.timeline
        assert step < self.config.steps
        self.timeline[step] = set(sequences)

    def checkpointed(self, step: int, kept: list[int]) -> None:
        """The learner has saved, and deletes what is not to be kept."""
        saved = sorted({*self.checkpoints, step})
        last = self.config.checkpoint.keep_last
        self.checkpoints = [s for s in saved if s in saved[-last:] or s in kept]

    def groups_of_one_verdict(self, where: str = "1") -> int:
        """Training groups all right or all wrong, under a condition of `Journal.groups`."""
        groups = self.journal.groups(f"l.purpose = 'train' AND {where}")
        return sum(g.n_correct in (0, g.n) for g in groups)

    def _check_dynamic_sampling(self) -> None:
        r = self.config.rollout
        delivered = sum(1 for _ in self.journal.groups("l.purpose = 'train'"))
        dropped = self.journal.ended().get("zero_signal", 0)
        assert self.groups_of_one_verdict("l.reason = 'zero_signal'") == dropped
        batches = (delivered - dropped) // r.groups_per_step + 1
        limit = r.dynamic_sampling.max_dropped * r.groups_per_step
        assert dropped <= limit * batches, "the learner is not kept waiting for ever"

    def _check_tries(self) -> None:
        rows = self.journal._db.execute("SELECT lease, outcome, reason FROM tries").fetchall()
        overran = Counter(i for i, _, reason in rows if reason.startswith("no delivery within"))
        failed = Counter(i for i, outcome, _ in rows if outcome == "failed")
        died = Counter(i for i, outcome, _ in rows if outcome == "died")
        assert failed - overran <= self.blunders, "one blunder burns one try, however often told"
        for lease in self.journal.leases("failed"):
            counted = failed[lease.id] + died[lease.id] // DEATHS_PER_FAILURE
            assert counted >= self.config.rollout.max_attempts, "lost generators burn none"

    def _check(
        self,
        coordinator: Coordinator,
        sent: list[tuple[bytes, wire.Message]],
        delivered: set[int],
    ) -> None:
        counts = self.journal.counts()
        leased, waiting = counts.get("leased", 0), counts.get("delivered", 0)
        scheduler, fleet = coordinator.scheduler, coordinator.fleet
        assert scheduler.outstanding == leased + waiting, "every lease is accounted for"
        for member in fleet:
            if member.health is Health.DEAD and not coordinator.state.final:
                assert coordinator.leases.held_by(member) == 0
        assert counts.get("batched", 0) <= self.config.rollout.groups_per_step, "one batch in hand"
        self._check_dynamic_sampling()
        self._check_tries()
        assert not list(self.journal.groups("g.newest >= ?", (UNSENT,)))
        first = next(iter(self.journal.evaluations()), {"version": 0, "step": 0})
        assert (first["version"], first["step"]) == (0, 0)
        self.base_evaluated = "n_problems" in first
        acked = {i for _, m in sent if isinstance(m, wire.Ack) for i in m.leases}
        open_ = {r.id for r in self.journal.leases("leased")}
        open_ |= {r.id for r in self.journal.leases("leased", purpose="eval")}
        assert not acked & delivered & open_, "acknowledged means journaled"
        round = coordinator.leases.round
        for peer, message in sent:
            if isinstance(message, wire.Grant):
                member = fleet.by_peer(peer)
                assert member is not None
                assert member.health is Health.HEALTHY
                generator = self.peers[peer]
                assert isinstance(generator, SimGenerator)
                if generator.alive and coordinator.weights.current is None:
                    # It truly has what it was verified to have, and of the present learner.
                    gang = json.loads(self.journal.meta("learners") or "[]")[-1]
                    assert generator.weights == (gang, member.version)
            if isinstance(message, wire.Prepare):
                assert round is None, "weights stay put while an evaluation is open"


def _valid(message: wire.Delivered) -> bool:
    try:
        group = unpack_group(message.group)
        return group.completion_ids.max() < VOCABULARY and group.versions.max() < UNSENT
    except ProtocolError:
        return False
