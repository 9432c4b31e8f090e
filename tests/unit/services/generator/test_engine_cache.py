"""The engine of a generator's process; engines are mocked, vLLM's are in tests/e2e."""

import asyncio
import gc
from typing import Any

import pytest

from asyncds.config.schema import RunConfig
from asyncds.tiny.tokenizer import word_tokenizer
from services.generator import engine_cache
from services.generator.engine_cache import EngineCache


class MockEngine:
    vocab_size = 50

    def __init__(self, *, stuck: bool = False) -> None:
        self.asked: list[int] = []
        self._stuck = stuck

    async def log_probs(self, tokens: list[int], *, timeout: float) -> None:
        self.asked.append(len(tokens))
        if self._stuck:
            raise TimeoutError

    async def stop(self, *, timeout: float) -> None:
        pass


def started(monkeypatch: pytest.MonkeyPatch, engine: MockEngine, *configs: RunConfig) -> None:
    async def start(config: RunConfig) -> Any:
        return engine

    async def all_in_turn() -> None:
        async with EngineCache() as kept:
            for config in configs:
                assert await kept.started(config) is engine

    monkeypatch.setattr(engine_cache, "_start_engine", start)
    monkeypatch.setattr(
        engine_cache, "load_tokenizer", lambda name: word_tokenizer(("7",), max_length=100)
    )
    monkeypatch.setattr(engine_cache, "_engine_settings", lambda config: config.generator)
    try:
        asyncio.run(all_in_turn())
        assert gc.get_freeze_count(), "no later collection goes through what was loaded"
    finally:
        gc.unfreeze()


def test_the_first_request_is_made_before_anybody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, config = MockEngine(), RunConfig(model="none")
    started(monkeypatch, engine, config, config)
    assert engine.asked == [64], "once for each engine"


def test_an_engine_that_answers_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError, match=r"within generator\.start_seconds, 600 s: raise it"):
        started(monkeypatch, MockEngine(stuck=True), RunConfig(model="none"))
