"""Scoring on the CPUs of a Ray cluster, for rewards too heavy for a generator's machine.

The nodes of the cluster need the same asyncds and the same task installed. An actor runs no
verifier itself: it drives a worker process like those of ``ProcessPoolScorer``, which can be
limited (Ray's own processes use gigabytes of address space) and replaced in a fraction of a second.
Nothing a verifier writes is unpickled anywhere.
"""

import asyncio
import logging
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.frames import EpisodeRequest, Reply
from asyncds.scoring.pool import CLOSE_SECONDS, START_SECONDS, PoolScorer
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import ScorerUnavailableError
from asyncds.tasks.base import Row

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ScorerUnavailableError(
        "scoring.backend ray needs the package ray: install `asyncds[ray]`"
    ) from error

log = logging.getLogger(__name__)

LOST = (RayError, ConnectionError)
"""Errors of a call whose actor, node or connection is gone."""

GRACE_SECONDS = 10.0
"""How much longer than its worker process an actor may take before we give it up."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Options of a cluster started here; completions and scores travel inside the calls."""


class RayScorer(PoolScorer):
    """A pool of Ray actors that each make the task once, from (kind, options); one per process.

    Without settings.ray_address it starts a cluster for itself alone, on this machine, with just
    enough CPUs, that ends with it. start_seconds: deadline for the connection, and again for an
    actor to be placed and ready. close_seconds: for all actors to end by themselves, after which
    they are killed, and again for the connection to close.

    An actor that is lost with its node is placed anew, and what it was asked is asked again, once.
    """

    def __init__(
        self,
        *,
        kind: str,
        options: Mapping[str, Any],
        settings: ScoringConfig,
        start_seconds: float = START_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        super().__init__(
            workers=settings.workers, start_seconds=start_seconds, close_seconds=close_seconds
        )
        self._cpus = settings.cpus_per_worker
        self._cluster = _Cluster(
            settings.ray_address, cpus=math.ceil(settings.workers * self._cpus)
        )
        self._pool_arguments: dict[str, Any] = {
            "kind": kind,
            "options": dict(options),
            # An actor judges one completion at a time.
            "settings": settings.model_copy(update={"workers": 1}),
            "start_seconds": start_seconds,
            "close_seconds": close_seconds,
        }
        self._patience = start_seconds + settings.timeout_seconds + GRACE_SECONDS

    async def _spawn(self) -> "RayWorker":
        await self._cluster.connect(deadline=self._start_seconds)
        actor_class = ray.remote(ScoringActor).options(
            num_cpus=self._cpus, max_restarts=-1, max_task_retries=1
        )
        return RayWorker(actor_class.remote(self._pool_arguments), self._patience)

    async def close(self) -> None:
        await super().close()
        await self._cluster.leave(deadline=self._close_seconds + GRACE_SECONDS)


class ScoringActor:
    """The actor that runs on the cluster. arguments: of its ``ProcessPoolScorer``."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._pool = ProcessPoolScorer(**arguments)

    async def start(self) -> None:
        await self._pool.start()

    async def judge(self, row: Row, completion: str) -> Reply:
        (reply,) = [reply async for reply in self._pool.judge(row, [completion])]
        return reply

    async def close(self) -> None:
        await self._pool.close()


class RayWorker:
    """A ``Worker``: the pool's end of one actor.

    patience: seconds for the answer to one completion, a restart of the process included.
    """

    def __init__(self, actor: Any, patience: float) -> None:
        self._actor = actor
        self._patience = patience
        self._busy = False
        self._alive = True

    async def ready(self, *, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                await _answer(self._actor.start.remote())
        except TimeoutError:
            reason = f"not ready within {deadline:g} s (has the cluster enough free CPUs?)"
        except RayTaskError as error:
            reason = str(error.cause)
        except LOST as error:
            reason = str(error)
        else:
            return
        raise ScorerUnavailableError(f"a scoring actor did not start: {reason}")

    async def judge(self, row: Row, completions: Sequence[str]) -> AsyncIterator[Reply]:
        self._busy = True
        for completion in completions:
            try:
                async with asyncio.timeout(self._patience):
                    reply = await _answer(self._actor.judge.remote(row, completion))
            except TimeoutError:
                self.kill()
                reply = Reply(reason="timeout", detail="the actor did not answer")
            except RayTaskError as error:
                raise ScorerUnavailableError(f"a scoring actor gave up: {error.cause}") from error
            except LOST as error:
                self.kill()
                reply = Reply(reason="crash", detail=f"the actor was lost: {error}")
            yield reply
            if not self._alive:
                return
        self._busy = False

    async def ask(self, request: EpisodeRequest) -> Reply:
        raise ScorerUnavailableError("environments need scoring.backend processes")

    @property
    def is_idle(self) -> bool:
        return self._alive and not self._busy

    @property
    def is_alive(self) -> bool:
        """Whether we have not given it up; Ray says no more without being asked."""
        return self._alive

    def kill(self) -> None:
        if self._alive:
            self._alive = False
            # When the connection is gone, Ray itself ends the actors that belong to it.
            with suppress(*LOST):
                ray.kill(self._actor)

    async def end(self, *, deadline: float) -> None:
        if not self._alive:
            return
        try:
            async with asyncio.timeout(deadline + GRACE_SECONDS):
                await _answer(self._actor.close.remote())
        except (TimeoutError, *LOST):
            log.warning("a scoring actor did not close")
        self.kill()


async def _answer(call: Any) -> Any:
    """The answer of a remote call.

    Cancelled, it only stops waiting: over "ray://" a cancelled call would end Ray's own thread.
    """
    answer = asyncio.ensure_future(call)
    # Whoever stopped waiting will not look at the exception.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(answer)


class _Cluster:
    """The connection to Ray, which a process has once, kept by a thread of its own.

    Ray's calls block and know no deadline, so they must be left behind when it is over; and the
    processes of a cluster started here die with the *thread* that started them.
    """

    def __init__(self, address: str | None, *, cpus: int) -> None:
        self._options: dict[str, Any] = {"address": address}
        if address is None:
            self._options = {
                "address": "local",
                "num_cpus": cpus,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._connected: Future[None] = Future()
        self._leaving = threading.Event()
        self._left: Future[None] = Future()

    async def connect(self, *, deadline: float) -> None:
        """Raises ScorerUnavailableError, at the deadline too."""
        if not self._thread.ident:
            self._thread.start()
        try:
            async with asyncio.timeout(deadline):
                await asyncio.shield(asyncio.wrap_future(self._connected))
        except TimeoutError:
            reason = f"no answer within {deadline:g} s"
        except Exception as error:  # Ray has no type of its own for what may go wrong here.
            reason = f"{type(error).__name__}: {error}"
        else:
            return
        raise ScorerUnavailableError(
            f"no connection to Ray at {self._options['address']}: {reason}"
        )

    async def leave(self, *, deadline: float) -> None:
        """Raises TimeoutError."""
        self._leaving.set()
        if self._connected.done() and not self._connected.exception():
            async with asyncio.timeout(deadline):
                await asyncio.shield(asyncio.wrap_future(self._left))

    def _run(self) -> None:
        if self._options["address"] == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _fulfil(self._connected, lambda: ray.init(configure_logging=False, **self._options))
        self._leaving.wait()
        _fulfil(self._left, ray.shutdown)


def _fulfil(future: Future[None], call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)
