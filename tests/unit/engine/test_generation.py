"""The start of an engine, with a process that stands for vLLM's."""

import asyncio
import multiprocessing
import time

import pytest

from asyncds.config.engines import GeneratorConfig
from asyncds.engine import generation


def test_an_engine_that_hangs_at_its_start_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(*_: object, **__: object) -> None:
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        process.start()
        process.join()
        raise RuntimeError("the engine's process ended")

    monkeypatch.setattr(generation, "start_on_cpu", hang)
    start = generation.GenerationEngine.start(
        GeneratorConfig(max_model_len=64, start_seconds=1),
        model="asyncds/tiny/shipped",
        tokenizer="asyncds/tiny/shipped",
        dtype="float32",
        seed=0,
        cpu_threads=1,
    )
    with pytest.raises(TimeoutError, match=r"within generator\.start_seconds, 1 s"):
        asyncio.run(start)
    assert multiprocessing.active_children() == []
