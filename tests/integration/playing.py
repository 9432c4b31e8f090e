"""An environment beside a real engine, in which weights change at chosen moments."""

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch

from asyncds.engine.generation import Completion
from asyncds.scoring.frames import Reply
from asyncds.tasks.base import Row, Score
from asyncds.tasks.environment import Answer
from tests.integration.engine_rig import Rig

TURNS = (20, 180, 20)
"""Tokens of each turn."""


class Playing:
    """A real engine, and an environment that is mocked: it says `7 :`.

    The weights change between the first turn and the second, and within the second, which is long
    enough for that. models: the weights of each version.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig, self.turn = rig, 0
        self.models = {rig.engine.version: copy.deepcopy(rig.model)}
        self.sampling_clock = rig.engine.sampling_clock

    async def generate(self, ids: Sequence[int], **options: Any) -> Completion:
        """The real engine's turn; the second is under way when the weights change."""
        changed = options | {"ignore_eos": True, "max_tokens": TURNS[self.turn]}
        self.turn += 1
        if self.turn == 2:
            self.train()
        sampling = asyncio.ensure_future(self.rig.engine.generate(ids, **changed))
        if self.turn == 2:
            await self.rig.sample(max_tokens=4)  # it has begun
            await self.rig.update()
        return await sampling

    def train(self) -> None:
        """Make and stage the weights of the next version."""
        self.rig.train()
        self.models[self.rig.staged.version] = copy.deepcopy(self.rig.model)

    @asynccontextmanager
    async def episode(self, row: Row) -> AsyncIterator["Playing"]:
        yield self

    async def step(self, completion: str) -> Reply:
        if self.turn == 1:
            self.train()
            await self.rig.update()
        return Reply(answer=Answer("7 :"))

    async def cut_off(self) -> Reply:
        return Reply(score=Score(0.0, False))

    async def close(self) -> Reply:
        return Reply()

    def log_probs(self, ids: list[int], versions: Sequence[int], start: int) -> np.ndarray:
        """What the weights give the tokens of a turn, from `start` on.

        Those of later versions go on with what the earlier have cached, as the engine's do.
        """
        cache, done, found = None, 0, []
        for version in sorted(set(versions)):
            # What stands before a token was read when that was sampled, but for the one before it.
            end = start + sum(v <= version for v in versions) - 1
            with torch.no_grad():
                inputs = torch.tensor([ids[done:end]])
                output = self.models[version](inputs, past_key_values=cache, use_cache=True)
            picked = torch.tensor(ids[done + 1 : end + 1])[:, None]
            found.append(output.logits[0].log_softmax(-1).gather(1, picked)[:, 0].numpy())
            cache, done = output.past_key_values, end
        return np.concatenate(found)[start - 1 :]
