"""A generator's process."""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from typing import Any, get_args

from msgspec.structs import replace
from vllm.v1.engine.exceptions import EngineDeadError

from asyncds.config.schema import RunConfig
from asyncds.config.tasks import task_options
from asyncds.engine.generation import EngineStats, GenerationEngine
from asyncds.engine.tokenizer import load_tokenizer, vocabulary_fingerprint
from asyncds.engine.vllm_metrics import VllmMetrics
from asyncds.protocol.wire import PROTOCOL, Bye, Dump, FromCoordinator, GeneratorHello, Welcome
from asyncds.scoring.make import make_scorer
from asyncds.scoring.scorer import Scorer, ScorerUnavailableError
from asyncds.tasks.base import Split, Task, evaluation_sets
from asyncds.tasks.environment import Environment
from asyncds.tasks.mixture import tasks_in
from asyncds.tasks.registry import make_task
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.transport.announce import announce
from asyncds.transport.keys import ClientKeys, KeyFileError
from asyncds.transport.link import GivenUpError, Link, LinkLostError, RefusedError
from asyncds.weights.probe import probe_tokens
from services.generator.engine_cache import EngineCache
from services.generator.episodes import EpisodePlayer
from services.generator.generator import Generator
from services.generator.weight_updates import EngineUnusableError, WeightUpdates
from services.generator.work import GroupSampler
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    client_keys,
    dump,
    make_traces,
    metrics_server,
    signals_async,
    start_logging,
)
from services.warm import Assignments

log = logging.getLogger(__name__)

COUNTED = 128
"""Evaluation problems whose correct answers are counted, which takes time where they are many."""


def main(config: RunConfig, *, name: str, index: int) -> int:
    """Generate until the run is over. Returns the exit code.

    name: unique in the fleet. index: which of the run's metrics ports it takes.
    """
    start_logging()

    async def alone() -> int:
        async with EngineCache() as engine:
            return await _serve(config, engine, name=name, index=index)

    return asyncio.run(alone())


def serve_runs(assignments: Assignments, *, name: str, index: str) -> int:
    """Generate for one run after another, with one engine where they allow it."""

    async def in_turn() -> int:
        async with EngineCache() as engine:
            while config := await asyncio.to_thread(assignments.next):
                code = await _serve(config, engine, name=name, index=int(index))
                assignments.finished(code)
                if code != DONE:
                    return code
        return DONE

    return asyncio.run(in_turn())


async def _serve(config: RunConfig, engine: EngineCache, *, name: str, index: int) -> int:
    options = task_options(config.task, tokenizer=config.tokenizer or config.model)
    try:
        keys = client_keys(config)
        task = make_task(config.task.kind, **options)
        announce(config.coordinator, name=name, doing="starting its engine", keys=keys)
        started = await engine.started(config)
        async with _scorer(config, task) as scorer:
            while True:
                try:
                    return await _generate(
                        config, task, scorer, started, keys=keys, name=name, index=index
                    )
                except GivenUpError as error:
                    log.warning("%s; joining again, with the engine as it is", error)
    except (  # before OSError, of which TimeoutError is one
        TimeoutError,
        LinkLostError,
        RefusedError,
        EngineDeadError,
        EngineUnusableError,
    ) as error:
        log.error("%s", error)
        return FAILURE
    except (KeyFileError, ValueError, OSError) as error:
        log.error("%s", error)
        return BAD_INPUT
    except ScorerUnavailableError as error:
        log.error("scoring is impossible: %s", error)
        return FAILURE


def _scorer(config: RunConfig, task: Task) -> AbstractAsyncContextManager[Scorer]:
    options = task_options(config.task, tokenizer=config.tokenizer or config.model)
    return make_scorer(
        config.scoring,
        kind=config.task.kind,
        options=options,
        episodes=bool(_environments(task)),
    )


def _environments(task: Task) -> dict[str, Environment]:
    """The environments among the tasks that a task consists of."""
    return {name: one for name, one in tasks_in(task).items() if isinstance(one, Environment)}


async def _generate(
    config: RunConfig,
    task: Task,
    scorer: Scorer,
    engine: GenerationEngine,
    *,
    keys: ClientKeys | None,
    name: str,
    index: int,
) -> int:
    """Be one incarnation, until the run is over. Returns the exit code."""
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    metrics = build_metrics("generator")
    metrics.registry.register(VllmMetrics())
    traces = make_traces(config, role="generator", name=name)
    introduction = _introduction(config, task, tokenizer, name)
    length = config.generator.max_model_len
    generator = Generator(
        engine=engine,
        sampler=GroupSampler(
            engine=engine,
            scorer=scorer,
            task=task,
            tokenizer=tokenizer,
            metrics=metrics,
            episodes={
                name: EpisodePlayer(
                    engine=engine,
                    scorer=scorer,
                    task=environment,
                    tokenizer=tokenizer,
                    limits=config.episodes,
                )
                for name, environment in _environments(task).items()
            },
        ),
        updates=WeightUpdates(
            engine=engine,
            probe=probe_tokens(
                tokenizer=tokenizer, vocab_size=engine.vocab_size, max_length=length
            ),
            incarnation=introduction.incarnation,
            metrics=metrics,
            traces=traces,
            version=-1 if config.trains else engine.version,
        ),
        metrics=metrics,
        traces=traces,
    )
    loop = asyncio.get_running_loop()

    def receive(message: FromCoordinator) -> None:
        if isinstance(message, Dump):
            dump(config, name=name, reason=message.reason, state=generator.state())
            return
        if isinstance(message, Welcome):
            traces.run_id = message.id
        loop.call_soon_threadsafe(generator.receive, message)

    def stepped(stats: EngineStats) -> None:
        traces.count("requests", at=time.time_ns(), running=stats.running, waiting=stats.waiting)

    engine.on_step(stepped if traces.on else None)
    server = metrics_server(
        config,
        metrics,
        place=1 + config.learner.ranks + index,
        healthy=lambda: "",
        ready=generator.not_ready,
    )
    with closing(traces), server:
        link = Link(
            config.coordinator,
            identity=f"{name}:{introduction.incarnation[:8]}",
            hello=lambda: replace(introduction, leases=generator.leases),
            heartbeat=generator.heartbeat,
            on_message=receive,
            keys=keys,
        )
        try:
            await asyncio.to_thread(link.wait_welcome, config.coordinator.lost_seconds)
            return await _until_told_to_leave(generator, link)
        finally:
            await asyncio.to_thread(link.close)


async def _until_told_to_leave(generator: Generator, link: Link) -> int:
    """Serve until the coordinator or a signal says that it is over. Returns the exit code."""
    serving = asyncio.create_task(generator.run(link))

    def leave(signal: str) -> None:
        serving.cancel(signal)

    with signals_async(asyncio.get_running_loop(), leave):
        try:
            reason = await serving
        except asyncio.CancelledError as cancelled:
            reason = f"told to stop by {cancelled}"
        except GivenUpError:
            await generator.abandon()
            raise
    await generator.abandon()
    link.send(Bye(reason=reason))
    log.info("leaving: %s", reason)
    return DONE


def _introduction(config: RunConfig, task: Task, tokenizer: Any, name: str) -> GeneratorHello:
    """The introduction of a new incarnation."""
    c = config.generator
    splits: tuple[Split, ...] = get_args(Split)
    sets = evaluation_sets(task, config.eval.split)
    return GeneratorHello(
        name=name,
        incarnation=uuid.uuid4().hex,
        protocol=PROTOCOL,
        workers=c.tensor_parallel * c.pipeline_parallel,
        capacity=_capacity(config, task),
        tokenizer=vocabulary_fingerprint(tokenizer.get_vocab()),
        data=task.fingerprint(),
        rows={split: len(task.rows(split)) for split in splits},
        multiplicity=_multiplicity(config, task, sets),
        sets=sets,
        training_sets=evaluation_sets(task, "train"),
        leases=[],
    )


def _capacity(config: RunConfig, task: Task) -> int:
    """Completions that may be in work or wait here."""
    at_once = config.generator.max_num_seqs
    if _environments(task):
        at_once = min(at_once, config.scoring.episodes)
    return 2 * at_once


def _multiplicity(
    config: RunConfig, task: Task, sets: Sequence[tuple[str, int]]
) -> dict[str, list[int]]:
    """Distinct correct answers of each row under each equivalence, 0 where they are not known.

    They are counted of the first rows of each set that is evaluated.
    """
    rows, most = task.rows(config.eval.split), min(config.eval.n_problems or COUNTED, COUNTED)
    counts: list[dict[str, int]] = []
    first = 0
    for _, n in sets or [("", len(rows))]:
        counts += [{}] * (first - len(counts))
        counts += [task.multiplicity(row) or {} for row in rows[first : first + min(n, most)]]
        first += n
    return {name: [count.get(name, 0) for count in counts] for name in task.equivalences}
