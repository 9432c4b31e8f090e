"""Scoring in other processes of this machine."""

from collections.abc import Mapping
from typing import Any

from asyncds.scoring.frames import Setup
from asyncds.scoring.pool import PoolScorer
from asyncds.scoring.worker_process import WorkerProcess


class ProcessPoolScorer(PoolScorer):
    """Worker processes that each make the task once, from (kind, options).

    time_limit: seconds for one completion. memory_limit: bytes of address space of a worker, the
    interpreter and the task included. The others: see ``PoolScorer``.
    """

    def __init__(
        self,
        *,
        kind: str,
        options: Mapping[str, Any],
        workers: int = 1,
        time_limit: float = 10.0,
        memory_limit: int = 2**30,
        start_seconds: float = 60.0,
        close_seconds: float = 5.0,
    ) -> None:
        super().__init__(workers=workers, start_seconds=start_seconds, close_seconds=close_seconds)
        self._setup = Setup(kind, dict(options), time_limit, memory_limit)

    async def _spawn(self) -> WorkerProcess:
        return await WorkerProcess.spawn(self._setup)
