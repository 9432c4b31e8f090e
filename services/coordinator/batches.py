"""The learner's desk: batches out, reports in."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from asyncds.algo.diversity import correct_answers
from asyncds.rollout.batch import Shard
from asyncds.rollout.codec import GroupArrays, decode_group, pack_shard, unpack_group
from asyncds.rollout.journal import GroupRow, Journal
from asyncds.rollout.sharding import make_shards
from asyncds.rollout.wire import BatchRequest, Message
from services.coordinator.leases import LeaseBook

log = logging.getLogger(__name__)


class BatchDesk:
    """Gives every rank its shard of the next batch, exactly one batch per step."""

    def __init__(
        self,
        *,
        journal: Journal,
        leases: LeaseBook,
        version_at: Callable[[int], int],
        send: Callable[[bytes, Message], None],
    ) -> None:
        self._journal = journal
        self._leases = leases
        self._version_at = version_at
        self._send = send
        self._waiting: dict[int, bytes] = {}
        self._step = -1
        self._shards: list[Shard] = []
        self._facts: dict[str, Any] = {}
        self.ranks = 1
        self.trained = 0
        """Batches trained so far."""

    def restore(self, step: int, ranks: int) -> None:
        """The learner (re)starts: its next batch is `step`."""
        self._waiting.clear()
        self._step, self._shards = -1, []
        self.trained, self.ranks = step, ranks

    def request(self, peer: bytes, message: BatchRequest) -> dict[str, Any] | None:
        """A rank wants a shard. Returns the metrics of the batch before if this completes it."""
        finished = None
        if message.rank == 0 and message.step == self.trained + 1:
            finished = self._complete(self.trained, message.report)
        self._waiting[message.rank] = peer
        if message.step == self._step or self._load(message.step):
            self._serve(message.rank)
        return finished

    def fill(self) -> None:
        """Select the next batch if ranks wait for it."""
        if not self._waiting or self._step == self.trained:
            return
        batch = self._leases.select()
        if batch is None:
            return
        step, version = self.trained, self._version_at(self.trained)
        self._journal.batch(step, version, batch)
        self._open(step)
        for rank in list(self._waiting):
            self._serve(rank)

    @property
    def starving(self) -> bool:
        """Ranks wait and there is no batch for them."""
        return bool(self._waiting) and self._step != self.trained

    def dismiss(self) -> list[bytes]:
        """The peers of the ranks that wait; they get no batch."""
        peers = list(self._waiting.values())
        self._waiting.clear()
        return peers

    def _serve(self, rank: int) -> None:
        self._send(self._waiting.pop(rank), pack_shard(self._shards[rank]))

    def _load(self, step: int) -> bool:
        """After the coordinator's restart a rank may ask for a batch that was selected before."""
        if step != self.trained or not self._journal.batch_of(step):
            return False
        self._open(step)
        return True

    def _open(self, step: int) -> None:
        rows = list(self._journal.groups("l.step = ?", (step,)))
        groups = [unpack_group(decode_group(r.payload)) for r in rows]
        self._step = step
        self._shards = make_shards(step, groups, self.ranks)
        self._facts = _facts(rows, groups)

    def _complete(self, step: int, report: dict[str, float]) -> dict[str, Any]:
        self._journal.consume(step)
        self.trained = step + 1
        facts = self._facts if self._step == step else {}
        metrics = {
            "step": step + 1,
            "version": self._version_at(step + 1),
            "time": time.time(),
            **facts,
            **{f"learner/{k}": v for k, v in report.items()},
        }
        self._journal.add_step(step, metrics)
        return metrics


def _facts(rows: list[GroupRow], groups: list[GroupArrays]) -> dict[str, Any]:
    """What is known of a batch without a model."""
    lags = [r.lag or 0 for r in rows]
    correct = np.concatenate([g.correct for g in groups])
    lengths = np.concatenate([g.lengths for g in groups])
    finished = np.concatenate([g.finished for g in groups])
    return {
        "groups": len(groups),
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "length": float(lengths.mean()),
        "truncated": float(1 - finished.mean()),
        "reward": float(np.concatenate([g.rewards for g in groups]).mean()),
        "correct": float(correct.mean()),
        "mixed_groups": float(np.mean([0 < g.correct.sum() < len(g.correct) for g in groups])),
        "distinct_correct": float(
            np.mean([len(correct_answers(g.answers, g.correct.tolist())) for g in groups])
        ),
        "lag_mean": float(np.mean(lags)),
        "lag_max": int(max(lags)),
        "lags": lags,
    }
