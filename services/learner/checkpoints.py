"""The run's checkpoints, as one learner rank reads and writes them."""

import logging
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch.distributed as dist

from asyncds.engine import checkpoint
from asyncds.engine.checkpoint_owner import take_over
from asyncds.engine.training import TrainingEngine
from asyncds.telemetry.metrics.registry import Metrics

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in `root`: the newest is read, others are written, and old ones deleted.

    `owner` is what this worker group, and no other, is called. `newest` is the step of the newest
    that was written, or loaded; -1 without one.
    """

    def __init__(
        self, root: Path, *, engine: TrainingEngine, keep_last: int, metrics: Metrics
    ) -> None:
        """A collective."""
        self.owner = agree_on(uuid.uuid4().hex)
        self.newest = -1
        self._root = root
        self._engine = engine
        self._keep_last = keep_last
        self._metrics = metrics
        self._kept: frozenset[int] = frozenset()

    def restore(self) -> None:
        """Load the newest checkpoint that is whole, if there is any; a collective.

        From then on a worker group that is still leaving writes none.

        Raises CheckpointError if none is whole, on rank 0 at least, with which the others end.
        """
        found = ""
        if self._engine.rank == 0:
            take_over(self._root, self.owner)
            found = str(checkpoint.newest(self._root) or "")
        if newest := agree_on(found):
            log.info("starting from %s", newest)
            self.newest = int(checkpoint.load(self._engine, Path(newest))["step"])

    def keep(self, steps: Iterable[int]) -> None:
        """Have these checkpoints not deleted; from any thread."""
        self._kept = frozenset(steps)

    def save(self, step: int) -> checkpoint.NoRoomError | None:
        """Write one; a collective. Returns why it could not be written, all ranks alike.

        Raises ReplacedError if another worker group has taken over.
        """
        began = time.perf_counter()
        directory = self._root / f"step-{step}"
        try:
            checkpoint.save(self._engine, directory, state={"step": step}, owner=self.owner)
        except checkpoint.NoRoomError as error:
            log.error("%s", error)
            self._metrics.counter("checkpoint_failures_total").inc()
            return error
        self.newest = step
        if self._engine.rank == 0:
            checkpoint.prune(self._root, keep_last=self._keep_last, keep=self._kept)
        self._metrics.histogram("checkpoint_seconds").observe(time.perf_counter() - began)
        return None


def agree_on(value: str) -> str:
    """Return rank 0's value, on every rank."""
    values = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]
