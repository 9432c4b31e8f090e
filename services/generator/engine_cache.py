"""The engine of a generator's process, from run to run."""

import json
import logging
import os
from pathlib import Path
from typing import Any, Self

from asyncds.config.schema import RunConfig
from asyncds.engine.generation import GenerationEngine
from asyncds.engine.tokenizer import load_tokenizer, vocabulary_fingerprint
from asyncds.weights.probe import probe_tokens
from services.process import settle_heap

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""How long the engine may take to end."""


class EngineCache:
    """The engine of a process, kept from one run to the next while they ask for the same one.

    Nothing of an earlier run is left in it: the learner's weights replace those of the engine
    before it serves, and no request shares a cached prefix with another run's.
    """

    def __init__(self) -> None:
        self._engine: GenerationEngine | None = None
        self._made_for: dict[str, Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def started(self, config: RunConfig) -> GenerationEngine:
        """Return the engine that a run asks for, started if it is not the one there is.

        Raises ValueError, OSError, TimeoutError.
        """
        wanted = _engine_settings(config)
        if self._engine is None or wanted != self._made_for:
            await self._stop()
            if config.scoring.backend == "ray":
                # A process forked while Ray's threads run may inherit a lock that nobody releases.
                os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
            log.info("starting an engine for %s", config.generator.model or config.model)
            self._engine, self._made_for = await _start_engine(config), wanted
            await _warm(self._engine, config)
            settle_heap()
        return self._engine

    async def _stop(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.stop(timeout=STOP_SECONDS)


def _engine_settings(config: RunConfig) -> dict[str, Any]:
    """Settings of an engine; models of one shape and vocabulary can take turns in it."""
    source = Path(config.generator.model or config.model)
    shape = source / "config.json"
    return {
        "model": json.loads(shape.read_text()) if shape.is_file() else str(source),
        "vocabulary": vocabulary_fingerprint(
            load_tokenizer(config.tokenizer or config.model).get_vocab()
        ),
        "dtype": config.dtype,
        "ranks": config.learner_ranks,
        "lora": None if config.sent_adapter is None else config.sent_adapter.model_dump(),
        # Where the learner sends none the engine must have the model's own weights.
        "weights": None if config.sends_whole_weights else str(source.resolve()),
        **config.generator.model_dump(exclude={"model", "replicas", "start_seconds"}),
    }


async def _start_engine(config: RunConfig) -> GenerationEngine:
    c = config.generator
    cores = os.cpu_count() or 1
    return await GenerationEngine.start(
        c,
        model=c.model or config.model,
        tokenizer=config.tokenizer or config.model,
        dtype=config.dtype,
        seed=config.seed,
        cpu_threads=c.cpu_threads or max(1, cores - config.learner_ranks),
        lora=config.sent_adapter,
    )


async def _warm(engine: GenerationEngine, config: RunConfig) -> None:
    """Make the first request of a new engine, which takes many times as long as those after it.

    That must not be the probe of its first weight sync: everybody in it would wait for this engine.
    """
    c = config.generator
    probe = probe_tokens(
        tokenizer=load_tokenizer(config.tokenizer or config.model),
        vocab_size=engine.vocab_size,
        max_length=c.max_model_len,
    )
    try:
        await engine.log_probs(probe.tolist(), timeout=c.start_seconds)
    except TimeoutError as error:
        raise TimeoutError(
            f"the engine did not answer a first request within generator.start_seconds, "
            f"{c.start_seconds:g} s: raise it"
        ) from error
