"""The run's checkpoints, as one learner rank reads and writes them."""

import logging
import time
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from asyncds.config.engines import CheckpointConfig
from asyncds.engine import checkpoint
from asyncds.engine.checkpoint_owner import take_over
from asyncds.engine.process_group import agree_on
from asyncds.engine.training import TrainingEngine
from asyncds.telemetry.metrics.registry import Metrics

log = logging.getLogger(__name__)

BYTES_PER_PARAMETER = 18
"""In a checkpoint, at most: weights twice in bfloat16, or once in float32, and the optimizer's."""


class Checkpoints:
    """The checkpoints in `root`: the newest is read, others are written, and old ones deleted.

    `owner` is what this worker group, and no other, is called. `newest` is the step of the newest
    that was written, or loaded; -1 without one.
    """

    def __init__(
        self, root: Path, *, engine: TrainingEngine, config: CheckpointConfig, metrics: Metrics
    ) -> None:
        """A collective."""
        self.owner = agree_on(uuid.uuid4().hex)
        self.newest = -1
        self._root = root
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._kept: frozenset[int] = frozenset()

    def restore(self) -> None:
        """Load the newest checkpoint that is whole, if there is any; a collective.

        From then on a worker group that is still leaving writes none.

        Raises CheckpointError if none is whole, on rank 0 at least, with which the others end.
        """
        if self._engine.rank == 0:
            take_over(self._root, self.owner)
        with self._patience():
            newest = checkpoint.newest(self._root)
            if newest is not None:
                log.info("starting from %s", newest)
                self.newest = int(checkpoint.load(self._engine, newest)["step"])

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
            with self._patience():
                checkpoint.save(self._engine, directory, state={"step": step}, owner=self.owner)
        except checkpoint.NoRoomError as error:
            log.error("%s", error)
            self._metrics.counter("checkpoint_failures_total").inc()
            return error
        self.newest = step
        if self._engine.rank == 0:
            checkpoint.prune(self._root, keep_last=self._config.keep_last, keep=self._kept)
        self._metrics.histogram("checkpoint_seconds").observe(time.perf_counter() - began)
        return None

    def _patience(self) -> AbstractContextManager[None]:
        """Wait as long for each other as a checkpoint may take."""
        rate = 1e6 * self._config.least_mb_per_second
        return self._engine.patience.longer(BYTES_PER_PARAMETER * self._engine.size / rate)
