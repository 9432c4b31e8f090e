"""The run's checkpoints, as one learner rank reads and writes them."""

import logging
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from asyncds.config.schema import RunConfig
from asyncds.engine import checkpoint
from asyncds.engine.checkpoint_owner import take_over
from asyncds.engine.checkpoint_writer import CheckpointWriter, NoRoomError
from asyncds.engine.process_group import agree_on
from asyncds.engine.training import TrainingEngine
from asyncds.telemetry.metrics.registry import Metrics

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in `root`: the newest is read, others are written, and old ones deleted.

    `owner` is what this worker group, and no other, is called. `newest` is the step of the newest
    that is on the disk, -1 without one; `on_saved` is called, by any thread, when there is another.
    """

    def __init__(
        self, root: Path, *, engine: TrainingEngine, config: RunConfig, metrics: Metrics
    ) -> None:
        """A collective."""
        self.owner = agree_on(uuid.uuid4().hex)
        self.newest = -1
        self.on_saved: Callable[[], None] = lambda: None
        self._root = root
        self._engine = engine
        self._config = config.checkpoint
        self._metrics = metrics
        self._kept: frozenset[int] = frozenset()
        self._longest_s = self._config.longest_seconds(engine.size)
        self._writer = CheckpointWriter(
            engine,
            root,
            owner=self.owner,
            longest_s=self._longest_s + config.learner.collective_seconds,
            ended=self._ended,
        )

    @property
    def waited_for(self) -> int:
        """Bytes so far of the checkpoint that training waits for, on rank 0; else 0."""
        return self._writer.waited_for

    def restore(self) -> None:
        """Load the newest checkpoint that is whole, if there is any; a collective.

        From then on a worker group that is still leaving writes none.

        Raises CheckpointError if none is whole, on rank 0 at least, with which the others end.
        """
        if self._engine.rank == 0:
            take_over(self._root, self.owner)
        with self._engine.patience.longer(self._longest_s):
            newest = checkpoint.newest(self._root)
            if newest is not None:
                log.info("starting from %s", newest)
                self.newest = int(checkpoint.load(self._engine, newest)["step"])

    def keep(self, steps: Iterable[int]) -> None:
        """Have these checkpoints not deleted; from any thread."""
        self._kept = frozenset(steps)

    def check(self) -> None:
        """Raise what a write ended with, other than for want of room."""
        self._writer.check()

    def begin(self, step: int) -> None:
        """Copy one, which is written while training goes on; a collective.

        It waits for the one before, if that is not written yet. Raises ReplacedError if another
        worker group has taken over, CheckpointError if the disk takes too long.
        """
        if self._writer.writing:
            log.warning("training waits at step %d: the checkpoint before is not written yet", step)
        self.wait()
        self._writer.begin(step, state={"step": step})

    def wait(self) -> NoRoomError | None:
        """Wait for the one that is being written, if any; returns why it was not, all ranks alike.

        Raises as `begin` does.
        """
        return self._writer.wait()

    def save(self, step: int) -> NoRoomError | None:
        """Have the checkpoint of `step` on the disk; a collective. Returns why it is not.

        Raises as `begin` does.
        """
        problem = self.wait()
        if self.newest != step:
            problem = self._writer.begin(step, state={"step": step}) or self.wait()
        return problem

    def close(self) -> None:
        """Wait for what is being written, so that it is not lost."""
        self._writer.close()

    def _ended(self, step: int, seconds: float, problem: NoRoomError | None) -> None:
        if problem is not None:
            log.error("%s", problem)
            self._metrics.counter("checkpoint_failures_total").inc()
            return
        self.newest = step
        self.on_saved()
        self._metrics.histogram("checkpoint_seconds").observe(seconds)
        if self._engine.rank == 0:
            log.info("the checkpoint of step %d took %.2f s", step, seconds)
            checkpoint.prune(self._root, keep_last=self._config.keep_last, keep=self._kept)
