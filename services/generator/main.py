"""A generator's process."""

import asyncio
import logging
import os
import uuid
from collections.abc import Sequence
from typing import get_args

import torch
from vllm.v1.engine.exceptions import EngineDeadError

from asyncds.config.schema import RunConfig
from asyncds.engine.generation import GenerationEngine
from asyncds.engine.tokenizer import load_tokenizer, vocabulary_fingerprint
from asyncds.rollout.wire import PROTOCOL, Bye, FromCoordinator, GeneratorHello
from asyncds.scoring.make import make_scorer
from asyncds.scoring.scorer import Scorer, ScorerUnavailableError
from asyncds.tasks.base import Row, Split, Task
from asyncds.tasks.registry import make_task
from asyncds.telemetry.catalogue import build_metrics
from asyncds.transport.link import Link, LinkLostError, RefusedError
from asyncds.weights.probe import probe_tokens
from services.generator.generator import Generator
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    coordinator_address,
    metrics_server,
    on_signals_async,
    start_logging,
)

log = logging.getLogger(__name__)

COUNTED = 128
"""Evaluation problems whose correct answers are counted, which takes time where they are many."""
STOP_SECONDS = 10.0
"""How long the engine may take to end."""


def main(config: RunConfig, *, name: str, index: int) -> int:
    """Generate until the run is over. Returns the exit code.

    name: unique in the fleet. index: which of the run's metrics ports it takes.
    """
    start_logging()
    options = config.task.model_dump(exclude={"kind"})
    try:
        task = make_task(config.task.kind, **options)
        return asyncio.run(_serve(config, task, name=name, index=index))
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return BAD_INPUT
    except (TimeoutError, LinkLostError, RefusedError, EngineDeadError) as error:
        log.error("%s", error)
        return FAILURE
    except ScorerUnavailableError as error:
        log.error("scoring is impossible: %s", error)
        return FAILURE


async def _serve(config: RunConfig, task: Task, *, name: str, index: int) -> int:
    s = config.scoring
    if s.backend == "ray":
        # An engine forked while Ray's threads run may inherit a lock that nobody will release.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    async with make_scorer(
        s.backend,
        ray_address=s.ray_address,
        cpus_per_worker=s.cpus_per_worker,
        kind=config.task.kind,
        options=config.task.model_dump(exclude={"kind"}),
        workers=s.workers,
        time_limit=s.timeout_seconds,
        memory_limit=s.memory_mb << 20,
    ) as scorer:
        engine = await _start_engine(config)
        try:
            return await _generate(config, task, scorer, engine, name=name, index=index)
        finally:
            await engine.stop(timeout=STOP_SECONDS)


async def _start_engine(config: RunConfig) -> GenerationEngine:
    c = config.generator
    cpu = not torch.cuda.is_available()
    cores = os.cpu_count() or 1
    return await GenerationEngine.start(
        model=c.model or config.model,
        dtype=config.dtype,
        max_model_len=c.max_model_len,
        tensor_parallel_size=c.tensor_parallel,
        pipeline_parallel_size=c.pipeline_parallel,
        gpu_memory_utilization=c.gpu_memory_utilization,
        kv_cache_bytes=int(c.kv_cache_gb * 2**30) if cpu else None,
        max_num_seqs=c.max_num_seqs,
        enforce_eager=c.enforce_eager,
        seed=config.seed,
        cpu_threads=c.cpu_threads or max(1, cores - config.learner.ranks),
        engine_args=c.engine_args,
        timeout=c.start_seconds,
    )


async def _generate(
    config: RunConfig,
    task: Task,
    scorer: Scorer,
    engine: GenerationEngine,
    *,
    name: str,
    index: int,
) -> int:
    c = config.generator
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    metrics = build_metrics("generator")
    generator = Generator(
        engine=engine,
        scorer=scorer,
        task=task,
        tokenizer=tokenizer,
        probe=probe_tokens(vocab_size=engine.vocab_size, max_length=c.max_model_len),
        max_model_len=engine.max_model_len,
        metrics=metrics,
    )
    loop = asyncio.get_running_loop()
    incarnation = uuid.uuid4().hex
    vocabulary, data = vocabulary_fingerprint(tokenizer.get_vocab()), task.fingerprint()
    splits: tuple[Split, ...] = get_args(Split)
    rows = {split: len(task.rows(split)) for split in splits}
    counted = min(config.eval.n_problems or COUNTED, COUNTED)
    multiplicity = _multiplicity(task, task.rows(config.eval.split)[:counted])

    def receive(message: FromCoordinator) -> None:
        loop.call_soon_threadsafe(generator.receive, message)

    with metrics_server(
        config,
        metrics,
        place=1 + config.learner.ranks + index,
        healthy=lambda: "",
        ready=generator.not_ready,
    ) as address:
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
        )
        try:
            await asyncio.to_thread(link.wait_welcome, config.coordinator.lost_seconds)
            serving = asyncio.create_task(generator.run(link))

            def leave(signal: str) -> None:
                serving.cancel(signal)

            on_signals_async(loop, leave)
            try:
                reason = await serving
            except asyncio.CancelledError as cancelled:
                reason = f"told to stop by {cancelled}"
            link.send(Bye(leases=await generator.abandon(), reason=reason))
            log.info("leaving: %s", reason)
            return DONE
        finally:
            await asyncio.to_thread(link.close)


def _multiplicity(task: Task, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Distinct correct answers of each row under each equivalence, 0 where they are not known."""
    counts = [task.multiplicity(row) or {} for row in rows]
    return {name: [count.get(name, 0) for count in counts] for name in task.equivalences}
