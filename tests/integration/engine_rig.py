"""A model, and a real engine that gets its weights, for tests of what the engine computes."""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from asyncds.config.engines import GeneratorConfig
from asyncds.config.lora import LoraConfig
from asyncds.engine.generation import Completion, GenerationEngine
from asyncds.engine.lora import adapter_config, add_adapter
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import iterate_weights, weight_specs
from asyncds.weights.staging import StagedWeights

TIMEOUT = 60.0
PROMPT = [5, 7, 9, 11, 3, 2]
PROBE = [5, 7, 9, 11, 3, 2, 20, 21, 40, 41, 60, 61, 80, 81, 100, 3]
TOLERANCE = 1e-3


def log_softmax_of_next(model: Any, token_ids: list[int], temperature: float) -> np.ndarray:
    """float32 [T-1]: what ``model`` gives ``token_ids[1:]``."""
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0, :-1] / temperature
    picked = logits.log_softmax(-1).gather(1, torch.tensor(token_ids[1:])[:, None])
    return picked[:, 0].numpy()


class Rig:
    """A model in training, its sender, and an engine that started from the same weights."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.Runner,
        tokenizer: Path | None = None,
        lora: LoraConfig | None = None,
        **settings: Any,
    ) -> None:
        """tokenizer: where it is not the model's. lora: what is trained, if not the model itself.
        settings: of the engine, for several workers."""
        self.world_size = 1 + math.prod(settings.values())
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        if lora is not None:
            add_adapter(self.model, lora, source=str(path))
        self.adapter = lora is not None and lora.publish == "adapter"
        specs = weight_specs(self.model, adapter=self.adapter)
        # So that there are many buckets, and layers and tensors span them.
        self.staged = StagedWeights(
            specs=specs,
            bucket_bytes=2**13 if self.adapter else 2**16,
            adapter=adapter_config(self.model) if self.adapter else None,
        )
        self.sender = WeightSender(transport="gloo", host="127.0.0.1")
        self.rendezvous = self.sender.new_rendezvous()
        self.loop = loop
        self.requests = 0
        self.engine: GenerationEngine = loop.run(
            GenerationEngine.start(
                GeneratorConfig(max_model_len=256, max_num_seqs=16, kv_cache_gb=1 / 16, **settings),
                model=str(path),
                tokenizer=str(tokenizer or path),
                dtype="float32",
                seed=0,
                cpu_threads=1,
                lora=lora if self.adapter else None,
            )
        )

    def train(self) -> None:
        """Change every parameter that is trained, by much, and stage the next version."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                if not parameter.requires_grad:
                    continue
                parameter.add_(torch.randn_like(parameter) * 0.05)
        self.staged.stage(
            iterate_weights(self.model, gather_bytes=2**16, adapter=self.adapter),
            version=(self.staged.version or 0) + 1,
        )

    def receive(
        self, *, bucket_bytes: int | None = None, **changes: Any
    ) -> Coroutine[Any, Any, Any]:
        arguments = {
            "version": self.staged.version,
            "rendezvous": self.rendezvous,
            "rank_offset": 1,
            "world_size": self.world_size,
            "layout": replace(
                self.staged.layout, bucket_bytes=bucket_bytes or self.staged.layout.bucket_bytes
            ),
            "checksums": self.staged.checksums,
            "timeout": TIMEOUT,
        }
        return self.engine.update_weights(**arguments | changes)

    async def update(self, **changes: Any) -> Any:
        """Send and receive the staged version, once each."""
        sending = asyncio.to_thread(
            self.sender.send,
            self.staged,
            rendezvous=self.rendezvous,
            world_size=self.world_size,
            timeout=TIMEOUT,
        )
        sent, received = await asyncio.gather(
            sending, self.receive(**changes), return_exceptions=True
        )
        for result in (sent, received):
            if isinstance(result, BaseException):
                raise result
        return received

    def sample(
        self, prompt: Sequence[int] = PROMPT, **arguments: Any
    ) -> Coroutine[Any, Any, Completion]:
        self.requests += 1
        return self.engine.generate(
            prompt, request_id=f"request-{self.requests}", **{"ignore_eos": True} | arguments
        )

    async def start_long_requests(self, n: int) -> list[asyncio.Task[Completion]]:
        """``n`` requests that have begun to sample when this returns, and are far from the end."""
        tasks = [asyncio.ensure_future(self.sample(max_tokens=240)) for _ in range(n)]
        await self.sample(max_tokens=4)
        return tasks

    async def assert_engine_computes_with_the_model(self) -> None:
        got = await self.engine.log_probs(PROBE, timeout=TIMEOUT)
        expected = log_softmax_of_next(self.model, PROBE, 1.0)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
