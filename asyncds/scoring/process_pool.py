"""Scoring in other processes of this machine."""

from collections.abc import Mapping
from typing import Any

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.frames import Setup
from asyncds.scoring.pool import CLOSE_SECONDS, START_SECONDS, PoolScorer
from asyncds.scoring.worker_process import WorkerProcess


class ProcessPoolScorer(PoolScorer):
    """A pool of worker processes that each make the task once, from (kind, options).

    episodes: the task is an environment, whose episodes have a process each.
    settings.memory_mb limits a worker's address space, the interpreter and the task included. The
    deadlines: see ``PoolScorer``.
    """

    def __init__(
        self,
        *,
        kind: str,
        options: Mapping[str, Any],
        settings: ScoringConfig,
        episodes: bool = False,
        start_seconds: float = START_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        super().__init__(
            workers=settings.episodes if episodes else settings.workers,
            started=settings.workers if not episodes else min(settings.workers, settings.episodes),
            start_seconds=start_seconds,
            close_seconds=close_seconds,
        )
        self._setup = Setup(kind, dict(options), settings.timeout_seconds, settings.memory_mb << 20)

    async def _spawn(self) -> WorkerProcess:
        return await WorkerProcess.spawn(self._setup)
