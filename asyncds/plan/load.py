"""How long sequences are and how many there are at once: what memory and time follow from.

A configuration bounds them; where it does not say how long they are, it is assumed here, and said.
"""

from dataclasses import dataclass

from asyncds.config.schema import RunConfig
from asyncds.plan.shape import ModelShape

LONGEST_PROMPT = 1024
"""Tokens of the longest prompt, where generator.max_model_len doesn't bound it."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load: sizes of what the processes have to hold and compute.

    longest: tokens of the longest sequence. prompt, completion: tokens of a usual one. batch:
    rollouts of a training batch. micro_batch: most tokens of one forward pass of a rank, and
    scored: of them, those whose log-probability is computed. in_flight: rollouts that a generator
    works on at once.
    """

    longest: int
    prompt: int
    completion: int
    batch: int
    micro_batch: int
    scored: int
    in_flight: int


def load_of(
    config: RunConfig,
    shape: ModelShape,
    *,
    prompt: int | None = None,
    completion: int | None = None,
) -> Load:
    """The load of a run. prompt, completion: usual lengths, where they are known.

    Else a usual completion is half of the longest, and so is a usual prompt.
    """
    answer = config.sampling.max_tokens
    room = config.generator.max_model_len or shape.positions or LONGEST_PROMPT + answer
    longest = min(room, answer + LONGEST_PROMPT) if _unbounded(config) else room
    question = max(1, longest - answer)
    rollout = config.rollout
    batch = rollout.groups_per_step * rollout.group_size
    mine = -(-batch // max(1, config.learner.ranks))
    micro_batch = max(longest, min(config.learner.micro_batch_tokens, mine * longest))
    # Leases are given out so that none is too old when it is trained: by pacing, target_lag
    # batches besides the one that is awaited.
    wanted = batch * (1 + rollout.resolved_target_lag)
    return Load(
        longest=longest,
        prompt=prompt or max(1, question // 2),
        completion=completion or max(1, answer // 2),
        batch=batch,
        micro_batch=micro_batch,
        scored=max(1, round(micro_batch * answer / longest)),
        in_flight=min(config.generator.max_num_seqs, -(-wanted // config.generator.replicas)),
    )


def _unbounded(config: RunConfig) -> bool:
    return config.generator.max_model_len is None
