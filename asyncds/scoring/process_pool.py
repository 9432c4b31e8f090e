"""Scoring in other processes, which are replaced when a verifier breaks them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Self, get_args

from asyncds.scoring.frames import Reply, Setup
from asyncds.scoring.scorer import NO_SCORE, Reason, ScorerUnavailableError
from asyncds.scoring.worker_process import WorkerProcess
from asyncds.tasks.base import Row, Score

log = logging.getLogger(__name__)


class ProcessPoolScorer:
    """A ``Scorer`` over worker processes that each make the task once, from (kind, options).

    workers: how many rows are scored at the same time. time_limit: seconds for one completion.
    memory_limit: bytes of address space of a worker, the interpreter and the task included.
    start_seconds: deadline for a worker to be ready. close_seconds: for all workers to end by
    themselves, after which they are killed.

    A completion that hangs, crashes or exhausts its worker costs only itself: the worker is
    replaced, and the completions after it are scored by the new one.
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
        self._setup = Setup(kind, dict(options), time_limit, memory_limit)
        self._start_seconds = start_seconds
        self._close_seconds = close_seconds
        self._errors: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
        self._closed = False
        self._processes: list[WorkerProcess] = []
        # One place per worker; None stands for a worker that is still to be started.
        self._places: asyncio.Queue[WorkerProcess | None] = asyncio.Queue()
        self._n_workers = workers
        for _ in range(workers):
            self._places.put_nowait(None)

    @property
    def errors(self) -> Mapping[Reason, int]:
        return MappingProxyType(self._errors)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start every worker now rather than when it is first needed.

        Raises ScorerUnavailableError, with the reason, if one can't make the task or is not ready
        in time; then none is left running.
        """
        everybody_started = asyncio.Barrier(self._n_workers)

        async def start_one() -> None:
            async with self._worker():
                await everybody_started.wait()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._n_workers):
                    group.create_task(start_one())
        except* ScorerUnavailableError as failures:
            await self.close()
            raise failures.exceptions[0] from None

    async def score(self, row: Row, completions: Sequence[str]) -> list[Score]:
        scores: list[Score] = []
        while len(scores) < len(completions):
            async with self._worker() as worker:
                async for reply in worker.judge(row, completions[len(scores) :]):
                    scores.append(self._settle(reply, row))
        return scores

    async def close(self) -> None:
        self._closed = True
        async with asyncio.TaskGroup() as group:
            for process in self._processes:
                group.create_task(process.end(deadline=self._close_seconds))

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[WorkerProcess]:
        """A worker for one row; afterwards it goes back to its place, unless it can't go on."""
        worker = await self._places.get()
        try:
            if self._closed:
                raise ScorerUnavailableError("the scorer has been closed")
            if worker is None or not worker.is_idle:
                worker = await self._started()
            yield worker
        finally:
            if worker is not None and not worker.is_idle:
                worker.kill()
                worker = None
            self._places.put_nowait(worker)

    async def _started(self) -> WorkerProcess:
        worker = await WorkerProcess.spawn(self._setup)
        self._processes = [process for process in self._processes if process.is_alive]
        self._processes.append(worker)
        try:
            if self._closed:
                raise ScorerUnavailableError("the scorer was closed meanwhile")
            await worker.ready(self._setup, deadline=self._start_seconds)
        except BaseException:
            worker.kill()
            raise
        return worker

    def _settle(self, reply: Reply, row: Row) -> Score:
        if reply.score is not None:
            return reply.score
        reason = reply.reason or "crash"
        self._errors[reason] += 1
        log.warning("no score for a completion of row %d: %s %s", row.index, reason, reply.detail)
        return NO_SCORE
