"""Objectives and tables of batches, as the tests of the algorithms write them."""

from typing import Any

import numpy as np

from asyncds.algo.advantages.base import Sequences
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.objective import Objective

MAX_TOKENS = 8


def make_objective(*, max_tokens: int = MAX_TOKENS, **options: Any) -> Objective:
    """The default objective with plain GRPO, but for the given options."""
    return Objective(AlgorithmConfig(**{"advantage": Grpo(), **options}), max_tokens=max_tokens)


def table(
    *,
    reward: Any,
    group: Any = None,
    correct: Any = None,
    length: Any = None,
    logprob_sum: Any = None,
) -> Sequences:
    """From lists, arrays or tensors. By default one group, reward 1 is correct, a token each."""
    reward = np.asarray(reward, dtype=np.float64)
    n = len(reward)
    return Sequences(
        reward=reward,
        group=np.zeros(n, np.int64) if group is None else np.asarray(group, dtype=np.int64),
        correct=np.asarray(reward == 1 if correct is None else correct, dtype=np.bool_),
        length=np.ones(n, np.int64) if length is None else np.asarray(length, dtype=np.int64),
        logprob_sum=np.asarray(
            np.zeros(n) if logprob_sum is None else logprob_sum, dtype=np.float64
        ),
    )
