"""A scorer over replaceable workers, wherever they run."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, Self

from asyncds.scoring.episode import OpenEpisode
from asyncds.scoring.frames import EpisodeRequest, Reply
from asyncds.scoring.scorer import NO_SCORE, GroupScores, Reason, ScorerUnavailableError
from asyncds.tasks.base import Row, Score

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""Deadline for a worker to be ready."""
CLOSE_SECONDS = 5.0
"""Deadline for all workers to end by themselves, after which they are killed."""


class Worker(Protocol):
    """Something that has made the task and judges with it. Used by one caller at a time."""

    async def ready(self, *, deadline: float) -> None:
        """Wait until the task is made. Raises ScorerUnavailableError, at the deadline too."""
        ...

    def judge(self, row: Row, completions: Sequence[str]) -> AsyncIterator[Reply]:
        """One reply after the other, in order; the last one, perhaps too early, where it broke."""
        ...

    async def ask(self, request: EpisodeRequest) -> Reply:
        """The reply to a part of an episode."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether it can take a row: alive, and nothing it was asked is still unanswered."""
        ...

    @property
    def is_alive(self) -> bool: ...

    def kill(self) -> None: ...

    async def end(self, *, deadline: float) -> None:
        """Let it end by itself, or kill it after ``deadline`` seconds."""
        ...


def group_scores(row: Row, replies: Iterable[Reply]) -> GroupScores:
    """The scores of a group, and the failures among the replies, which are logged."""
    scores: list[Score] = []
    failures: dict[int, Reason] = {}
    error = ""
    for i, reply in enumerate(replies):
        if reply.score is None:
            failures[i] = reason = reply.reason or "crash"
            error = f"{reason} {reply.detail}".strip()
            log.warning("row %d: a completion has no score: %s", row.index, error)
        scores.append(reply.score or NO_SCORE)
    return GroupScores(scores, failures, error)


class PoolScorer(ABC):
    """A ``Scorer`` over workers that each make the task once.

    A completion that hangs, crashes or exhausts its worker costs only itself: the worker is
    replaced, and the completions after it are scored by the new one.

    workers: how many rows are scored, or episodes played, at the same time. started: how many of
    them ``start`` starts; the others start when they are needed. start_seconds, close_seconds:
    deadlines, see START_SECONDS and CLOSE_SECONDS.
    """

    def __init__(
        self,
        *,
        workers: int,
        start_seconds: float,
        close_seconds: float,
        started: int | None = None,
    ) -> None:
        self._start_seconds = start_seconds
        self._close_seconds = close_seconds
        self._closed = False
        self._workers: list[Worker] = []
        # One place per worker; None stands for a worker that is still to be started.
        # Those that were started last are taken first, so that no more are started than needed.
        self._places: asyncio.Queue[Worker | None] = asyncio.LifoQueue()
        self._n_started = started or workers
        for _ in range(workers):
            self._places.put_nowait(None)

    @abstractmethod
    async def _spawn(self) -> Worker:
        """A new worker, not yet ready. Raises ScorerUnavailableError."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start workers now rather than when they are first needed.

        Raises ScorerUnavailableError, with the reason, if one can't make the task or is not ready
        in time; then none is left running.
        """
        everybody_started = asyncio.Barrier(self._n_started)

        async def start_one() -> None:
            async with self._worker():
                await everybody_started.wait()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._n_started):
                    group.create_task(start_one())
        except ExceptionGroup as error:
            # Not `except*`: some versions of Python put what is raised in it into a group again.
            failures, others = error.split(ScorerUnavailableError)
            if failures is None or others is not None:
                raise
            await self.close()
            raise failures.exceptions[0] from None

    async def score(self, row: Row, completions: Sequence[str]) -> GroupScores:
        return group_scores(row, [reply async for reply in self.judge(row, completions)])

    async def judge(self, row: Row, completions: Sequence[str]) -> AsyncIterator[Reply]:
        """Yield one reply per completion, in order; to be read to its end.

        Raises ScorerUnavailableError.
        """
        done = 0
        while done < len(completions):
            async with self._worker() as worker:
                async for reply in worker.judge(row, completions[done:]):
                    done += 1
                    yield reply

    @asynccontextmanager
    async def episode(self, row: Row) -> AsyncIterator[OpenEpisode]:
        async with self._worker() as worker:
            episode = OpenEpisode(worker)
            try:
                await episode.begin(row)
                yield episode
            finally:
                if not episode.is_closed:
                    worker.kill()

    async def close(self) -> None:
        self._closed = True
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.end(deadline=self._close_seconds))

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
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

    async def _started(self) -> Worker:
        worker = await self._spawn()
        self._workers = [other for other in self._workers if other.is_alive]
        self._workers.append(worker)
        try:
            if self._closed:
                raise ScorerUnavailableError("the scorer was closed meanwhile")
            await worker.ready(deadline=self._start_seconds)
        except BaseException:
            worker.kill()
            raise
        return worker
