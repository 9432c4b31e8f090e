"""An episode of an environment, played in a worker."""

from typing import Protocol

from asyncds.scoring.frames import Begin, Close, CutOff, EpisodeRequest, Reply, Step
from asyncds.tasks.base import Row


class EpisodeWorker(Protocol):
    """The part of a worker that an episode needs."""

    async def ask(self, request: EpisodeRequest) -> Reply: ...

    @property
    def is_idle(self) -> bool: ...


class OpenEpisode:
    """An episode, which has a worker for itself. What fails once is the answer from then on."""

    def __init__(self, worker: EpisodeWorker) -> None:
        self._worker = worker
        self._failure: Reply | None = None
        self.is_closed = False

    async def begin(self, row: Row) -> None:
        """Start the episode; how that went is known at its first step."""
        await self._ask(Begin(row))

    async def step(self, completion: str) -> Reply:
        """The environment's answer to a completion, or the score."""
        return await self._ask(Step(completion))

    async def cut_off(self) -> Reply:
        """The score of an episode that is over by a limit."""
        return await self._ask(CutOff())

    async def close(self) -> Reply:
        """End it. Returns the first failure of the episode, if there was one."""
        self.is_closed = True
        if not self._worker.is_idle:
            return self._failure or Reply()
        closed = await self._worker.ask(Close())
        return self._failure or closed

    async def _ask(self, request: EpisodeRequest) -> Reply:
        if self._failure is not None:
            return self._failure
        reply = await self._worker.ask(request)
        if reply.reason is not None:
            self._failure = reply
        return reply
