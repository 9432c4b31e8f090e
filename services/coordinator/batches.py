"""Batches for the learner: its ranks ask for shards, and so say what they have trained."""

from collections.abc import Callable
from dataclasses import dataclass, field

from asyncds.protocol.batch import Shard
from asyncds.protocol.codec import (
    GroupArrays,
    ProtocolError,
    decode_group,
    pack_shard,
    unpack_group,
)
from asyncds.protocol.records import BatchFacts
from asyncds.protocol.sharding import make_shards
from asyncds.protocol.wire import BatchRequest, Message
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalDamagedError
from asyncds.rollout.journal_reader import GroupRow
from services.coordinator.batch_facts import BatchMeasure
from services.coordinator.leases import LeaseBook


@dataclass(frozen=True, kw_only=True)
class TrainedBatch:
    """A batch that the learner reports as trained.

    step: its number, from 0. report: what the learner measured. facts: None if the samples are
    gone. lags: of each group.
    """

    step: int
    report: dict[str, float]
    facts: BatchFacts | None = None
    lags: list[int] = field(default_factory=list)


class BatchServer:
    """Gives every rank its shard of the next batch, exactly one batch per step."""

    def __init__(
        self,
        *,
        journal: Journal,
        leases: LeaseBook,
        measure: BatchMeasure,
        version_at: Callable[[int], int],
        send: Callable[[bytes, Message], None],
    ) -> None:
        self._journal = journal
        self._leases = leases
        self._measure = measure
        self._version_at = version_at
        self._send = send
        self._waiting: dict[int, tuple[int, bytes]] = {}  # rank: (step asked for, peer)
        self._step = -1
        self._shards: list[Shard] = []
        self._facts: BatchFacts | None = None
        self._lags: list[int] = []
        self.ranks = 1
        self.trained = 0
        """Batches trained so far."""

    def restore(self, step: int, ranks: int) -> None:
        """The learner (re)starts, with `step` batches trained."""
        self._waiting.clear()
        self._step, self._shards = -1, []
        self.trained, self.ranks = step, ranks

    def request(self, peer: bytes, message: BatchRequest) -> TrainedBatch | None:
        """A rank wants a shard. Returns the batch before if this says that it is trained."""
        if message.step < self.trained:
            return None  # a repetition that comes late
        finished = None
        if message.rank == 0 and self._is_news(message.step - 1):
            finished = self._complete(message.step - 1, message.report)
        self._waiting[message.rank] = (message.step, peer)
        if message.step == self.trained and (self._step == message.step or self._load()):
            self._serve()
        return finished

    def fill(self) -> None:
        """Select the next batch if ranks wait for it."""
        if not self.starving:
            return
        batch = self._leases.select()
        if batch is None:
            return
        self._journal.batch(self.trained, self._version_at(self.trained), batch)
        self._load()
        self._serve()

    @property
    def starving(self) -> bool:
        """Ranks wait and there is no batch for them."""
        asked = any(step == self.trained for step, _ in self._waiting.values())
        return asked and self._step != self.trained

    def dismiss(self) -> list[bytes]:
        """The peers of the ranks that wait; they get no batch."""
        peers = [peer for _, peer in self._waiting.values()]
        self._waiting.clear()
        return peers

    def _serve(self) -> None:
        for rank, (step, peer) in list(self._waiting.items()):
            if step == self._step:
                del self._waiting[rank]
                self._send(peer, pack_shard(self._shards[rank]))

    def _load(self) -> bool:
        """Read the batch of step `trained` from the journal, if it was selected already.

        That may have been before the coordinator's restart.
        """
        rows = list(self._journal.groups(step=self.trained))
        if not rows:
            return False
        groups = [self._group(row) for row in rows]
        self._step = self.trained
        self._shards = make_shards(
            self._step,
            groups,
            self.ranks,
            leases=[r.lease for r in rows],
            generators=[r.generator for r in rows],
        )
        self._lags = [r.lag or 0 for r in rows]
        self._facts = self._measure.facts(self._step, rows, groups)
        return True

    def _group(self, row: GroupRow) -> GroupArrays:
        try:
            return unpack_group(decode_group(row.payload))
        except ProtocolError as error:
            raise JournalDamagedError(
                f"the group of lease {row.lease} in the journal {self._journal.path} is damaged "
                f"({error}): put a good copy of the file in its place"
            ) from error

    def _is_news(self, step: int) -> bool:
        """Whether nothing is written down of batch `step`, which is trained.

        That may be so of one in a checkpoint, too: coordinator or learner ended before its report
        arrived. What a learner measured is lost with it, and what the journal knows of the batch is
        not.
        """
        if step == self.trained:
            return True
        return step == self.trained - 1 and step >= 0 and not self._journal.has_step(step)

    def _complete(self, step: int, report: dict[str, float]) -> TrainedBatch:
        self._journal.consume(step)
        self.trained = step + 1
        if self._step == step:
            return TrainedBatch(step=step, report=report, facts=self._facts, lags=self._lags)
        rows = list(self._journal.groups(step=step))
        if not rows or not all(row.payload for row in rows):
            return TrainedBatch(step=step, report=report)
        lags = [r.lag or 0 for r in rows]
        facts = self._measure.facts(step, rows, [self._group(row) for row in rows])
        return TrainedBatch(step=step, report=report, facts=facts, lags=lags)
