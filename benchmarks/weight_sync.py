"""Measures what new weights cost a running engine: the figures of docs/weights.md.

    python benchmarks/weight_sync.py [megabytes, default 600] [updates, default 3]

A random model of that size in float32 on a CPU, four requests under way, gloo on this machine. Each
update is made twice: with the engine paused throughout, which is what an update without receiving
beside the model comes to, and as it is.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from asyncds.config.engines import GeneratorConfig
from asyncds.engine.generation import GenerationEngine
from asyncds.engine.weight_update import UpdateResult
from asyncds.tiny.model import save_untrained
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights

BUCKET_BYTES = 64 << 20
LENGTH = 1024
REQUESTS = 4
TIMEOUT = 300.0
HIDDEN, WIDE, VOCABULARY = 1024, 2816, 32_000
LAYER_BYTES = 4 * HIDDEN * (2 * HIDDEN + HIDDEN // 2 + 3 * WIDE)


def main(megabytes: int, updates: int) -> None:
    """Run both ways, print a row for each."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        model = save_model(Path(directory), megabytes << 20)
        rows = asyncio.run(measure(model, directory, updates))
    print("| engine is paused | transfer s | pause s | pause / transfer |")
    print("|---|---|---|---|")
    for name, figures in rows.items():
        received, paused = (statistics.median(column) for column in zip(*figures, strict=True))
        share = f"{100 * paused / (received + paused):.1f} %"
        print(f"| {name} | {received + paused:.2f} | {paused:.3f} | {share} |")


def save_model(directory: Path, nbytes: int) -> Any:
    """A model of about that size, saved and returned."""
    layers = max(1, (nbytes - 4 * HIDDEN * VOCABULARY) // LAYER_BYTES)
    save_untrained(directory / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDE,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(torch.float32)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    print(f"{layers} layers, {4 * sum(p.numel() for p in model.parameters()) / 1e9:.2f} GB")
    return model


async def measure(model: Any, directory: str, updates: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of receiving beside the model and of the pause, of each update."""
    engine = await GenerationEngine.start(
        GeneratorConfig(max_model_len=LENGTH, max_num_seqs=8, kv_cache_gb=0.25),
        model=directory,
        dtype="float32",
        seed=0,
        cpu_threads=1,
    )
    staged = StagedWeights(specs=weight_specs(model), bucket_bytes=BUCKET_BYTES)
    sender = WeightSender(transport="gloo", host="127.0.0.1")
    rendezvous = sender.new_rendezvous()
    rows: dict[str, list[tuple[float, float]]] = {"throughout": [], "to activate": []}
    version = 0

    async def update() -> UpdateResult:
        sending = asyncio.to_thread(
            sender.send, staged, rendezvous=rendezvous, world_size=2, timeout=TIMEOUT
        )
        receiving = engine.update_weights(
            version=version,
            rendezvous=rendezvous,
            rank_offset=1,
            world_size=2,
            layout=staged.layout,
            checksums=staged.checksums,
            timeout=TIMEOUT,
        )
        _, result = await asyncio.gather(sending, receiving)
        return result

    async def paused_throughout() -> tuple[float, float]:
        started = time.perf_counter()
        await engine._engine.engine_core.pause_scheduler_async(mode="keep", clear_cache=False)
        await update()
        return 0.0, time.perf_counter() - started

    async def beside() -> tuple[float, float]:
        result = await update()
        return result.receive_seconds, result.pause_seconds

    for _ in range(updates):
        for name, way in (("throughout", paused_throughout), ("to activate", beside)):
            version += 1
            staged.stage(iterate_weights(model, gather_bytes=BUCKET_BYTES), version=version)
            async with requests(engine, version):
                rows[name].append(await way())
    await engine.stop(timeout=10.0)
    sender.close()
    return rows


@asynccontextmanager
async def requests(engine: GenerationEngine, version: int) -> AsyncIterator[None]:
    """Requests that have begun to sample, and are ended at the end."""
    tasks = [
        asyncio.ensure_future(
            engine.generate(
                [5, 7, 9, 11],
                request_id=f"{version}-{i}",
                max_tokens=LENGTH - 8,
                ignore_eos=True,
            )
        )
        for i in range(REQUESTS)
    ]
    await engine.generate([5], request_id=f"{version}-first", max_tokens=4, ignore_eos=True)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    main(*([int(argument) for argument in sys.argv[1:]] or [600, 3]))
