"""A generator's process."""

import asyncio
import logging
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from typing import get_args

from vllm.v1.engine.exceptions import EngineDeadError

from asyncds.config.schema import RunConfig
from asyncds.engine.generation import GenerationEngine
from asyncds.engine.tokenizer import load_tokenizer, vocabulary_fingerprint
from asyncds.engine.vllm_metrics import VllmMetrics
from asyncds.protocol.wire import PROTOCOL, Bye, Dump, FromCoordinator, GeneratorHello, Welcome
from asyncds.scoring.make import make_scorer
from asyncds.scoring.scorer import Scorer, ScorerUnavailableError
from asyncds.tasks.base import Row, Split, Task
from asyncds.tasks.registry import make_task
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.transport.keys import ClientKeys, KeyFileError
from asyncds.transport.link import GivenUpError, Link, LinkLostError, RefusedError
from asyncds.weights.probe import probe_tokens
from services.generator.engine_cache import EngineCache
from services.generator.generator import Generator
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    client_keys,
    coordinator_address,
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
    options = config.task.model_dump(exclude={"kind"})
    try:
        keys = client_keys(config)
        task = make_task(config.task.kind, **options)
        started = await engine.started(config)
        async with _scorer(config) as scorer:
            while True:
                try:
                    return await _generate(
                        config, task, scorer, started, keys=keys, name=name, index=index
                    )
                except GivenUpError as error:
                    log.warning("%s; joining again, with the engine as it is", error)
    except (KeyFileError, ValueError, OSError) as error:
        log.error("%s", error)
        return BAD_INPUT
    except (TimeoutError, LinkLostError, RefusedError, EngineDeadError) as error:
        log.error("%s", error)
        return FAILURE
    except ScorerUnavailableError as error:
        log.error("scoring is impossible: %s", error)
        return FAILURE


def _scorer(config: RunConfig) -> AbstractAsyncContextManager[Scorer]:
    s = config.scoring
    return make_scorer(
        s.backend,
        ray_address=s.ray_address,
        cpus_per_worker=s.cpus_per_worker,
        kind=config.task.kind,
        options=config.task.model_dump(exclude={"kind"}),
        workers=s.workers,
        time_limit=s.timeout_seconds,
        memory_limit=s.memory_mb << 20,
    )


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
    c = config.generator
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    metrics = build_metrics("generator")
    metrics.registry.register(VllmMetrics())
    traces = make_traces(config, role="generator", name=name)
    incarnation = uuid.uuid4().hex
    generator = Generator(
        engine=engine,
        scorer=scorer,
        task=task,
        tokenizer=tokenizer,
        probe=probe_tokens(vocab_size=engine.vocab_size, max_length=c.max_model_len),
        max_model_len=engine.max_model_len,
        incarnation=incarnation,
        metrics=metrics,
        traces=traces,
        version=-1 if config.trains else engine.version,
    )
    loop = asyncio.get_running_loop()
    vocabulary, data = vocabulary_fingerprint(tokenizer.get_vocab()), task.fingerprint()
    splits: tuple[Split, ...] = get_args(Split)
    rows: dict[str, int] = {split: len(task.rows(split)) for split in splits}
    counted = min(config.eval.n_problems or COUNTED, COUNTED)
    multiplicity = _multiplicity(task, task.rows(config.eval.split)[:counted])

    def receive(message: FromCoordinator) -> None:
        if isinstance(message, Dump):
            dump(config, name=name, reason=message.reason, state=generator.state())
            return
        if isinstance(message, Welcome):
            traces.run_id = message.id
        loop.call_soon_threadsafe(generator.receive, message)

    server = metrics_server(
        config,
        metrics,
        place=1 + config.learner.ranks + index,
        healthy=lambda: "",
        ready=generator.not_ready,
    )
    with closing(traces), server as address:
        link = Link(
            address=coordinator_address(config),
            identity=f"{name}:{incarnation[:8]}",
            hello=lambda: GeneratorHello(
                name=name,
                incarnation=incarnation,
                protocol=PROTOCOL,
                workers=c.tensor_parallel * c.pipeline_parallel,
                capacity=2 * c.max_num_seqs,
                tokenizer=vocabulary,
                data=data,
                rows=rows,
                multiplicity=multiplicity,
                leases=generator.leases,
                metrics=address,
            ),
            heartbeat=generator.heartbeat,
            heartbeat_seconds=config.coordinator.heartbeat_seconds,
            lost_seconds=config.coordinator.lost_seconds,
            on_message=receive,
            keys=keys,
        )
        try:
            await asyncio.to_thread(link.wait_welcome, config.coordinator.lost_seconds)
            serving = asyncio.create_task(generator.run(link))

            def leave(signal: str) -> None:
                serving.cancel(signal)

            with signals_async(loop, leave):
                try:
                    reason = await serving
                except asyncio.CancelledError as cancelled:
                    reason = f"told to stop by {cancelled}"
                except GivenUpError:
                    await generator.abandon()
                    raise
            link.send(Bye(leases=await generator.abandon(), reason=reason))
            log.info("leaving: %s", reason)
            return DONE
        finally:
            await asyncio.to_thread(link.close)


def _multiplicity(task: Task, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Distinct correct answers of each row under each equivalence, 0 where they are not known."""
    counts = [task.multiplicity(row) or {} for row in rows]
    return {name: [count.get(name, 0) for count in counts] for name in task.equivalences}
