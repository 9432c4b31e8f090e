"""Batches of examples as shards of the learner's engine. Pure."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from asyncds.algo.sums import Sums
from asyncds.protocol.batch import SequenceTable, Shard
from asyncds.protocol.sharding import balance
from asyncds.sft.rows import Example


def steps_of(n: int, *, size: int, epochs: float) -> int:
    """Optimizer steps that show n rows so many times, in whole batches; at least one."""
    return max(1, int(n * epochs) // size)


def rows_of(step: int, n: int, *, size: int, seed: int) -> list[int]:
    """The rows of a batch, from step 0: they follow from the seed, however training got there.

    Every row comes once before any comes again, in an order that is another each time. size: of a
    batch, at most n.
    """
    rows: list[int] = []
    for place in range(step * size, (step + 1) * size):
        epoch, at = divmod(place, n)
        if not rows or at == 0:
            order = np.random.default_rng([seed, epoch]).permutation(n)
        rows.append(int(order[at]))
    return rows


def shard(examples: Sequence[Example], *, step: int, rank: int, ranks: int) -> Shard:
    """A rank's shard of a batch. What only rollouts have is zero."""
    n = len(examples)
    prompts = np.array([len(e.prompt) for e in examples], dtype=np.int32)
    lengths = np.array([len(e.answer) for e in examples], dtype=np.int32)
    owner = balance(prompts + lengths, ranks)
    mine = np.flatnonzero(owner == rank).astype(np.int32)
    tokens = int(lengths[mine].sum())
    return Shard(
        step=step,
        rank=rank,
        leases=[],
        table=SequenceTable(
            group=np.arange(n, dtype=np.int32),
            reward=np.zeros(n, dtype=np.float32),
            correct=np.ones(n, dtype=np.bool_),
            prompt_length=prompts,
            length=lengths,
            sampled=lengths,
            logprob_sum=np.zeros(n, dtype=np.float32),
            rank=owner,
            finished=np.ones(n, dtype=np.bool_),
            generator=np.zeros(n, dtype=np.int32),
        ),
        generators=["data"],
        sequences=mine,
        prompt_ids=np.concatenate([examples[i].prompt for i in mine]),
        completion_ids=np.concatenate([examples[i].answer for i in mine]),
        logprobs=np.zeros(tokens, dtype=np.float32),
        versions=np.zeros(tokens, dtype=np.int32),
    )


def answer_loss(*, log_probs: Tensor, **_: object) -> tuple[Tensor, Sums]:
    """The cross-entropy of the answers' tokens, summed, in nats."""
    return -log_probs.sum(), Sums.of({"answer": -log_probs})
