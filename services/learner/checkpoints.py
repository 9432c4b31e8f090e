"""The run's checkpoints, as one learner rank writes them."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from asyncds.engine import checkpoint
from asyncds.engine.training import TrainingEngine
from asyncds.telemetry.metrics.registry import Metrics

log = logging.getLogger(__name__)


class Checkpoints:
    """Writes checkpoints to `root`, and deletes all but the newest and those that are asked for.

    `newest` is the step of the newest that was written, or loaded; -1 without one.
    """

    def __init__(
        self, root: Path, *, engine: TrainingEngine, keep_last: int, metrics: Metrics, loaded: int
    ) -> None:
        """loaded: the step of the checkpoint that training began with, 0 without one."""
        self.newest = loaded or -1
        self._root = root
        self._engine = engine
        self._keep_last = keep_last
        self._metrics = metrics
        self._kept: frozenset[int] = frozenset()

    def keep(self, steps: Iterable[int]) -> None:
        """Have these checkpoints not deleted; from any thread."""
        self._kept = frozenset(steps)

    def save(self, step: int) -> checkpoint.NoRoomError | None:
        """Write one; a collective. Returns why it could not be written, all ranks alike."""
        began = time.perf_counter()
        try:
            checkpoint.save(self._engine, self._root / f"step-{step}", state={"step": step})
        except checkpoint.NoRoomError as error:
            log.error("%s", error)
            self._metrics.counter("checkpoint_failures_total").inc()
            return error
        self.newest = step
        if self._engine.rank == 0:
            checkpoint.prune(self._root, keep_last=self._keep_last, keep=self._kept)
        self._metrics.histogram("checkpoint_seconds").observe(time.perf_counter() - began)
        return None
