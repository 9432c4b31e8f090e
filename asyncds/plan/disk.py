"""Disk space of checkpoints and the journal."""

from asyncds.config.schema import RunConfig
from asyncds.plan.load import Load
from asyncds.plan.staging import ITEMSIZE

_MASTER_AND_MOMENTS = 12
_TOKEN = 8
"""Bytes of a sampled token in the journal: its id and its log-probability."""
_ROLLOUT = 32
"""Bytes of a rollout besides: length, reward, verdicts, answer."""


def checkpoint_bytes(config: RunConfig, parameters: float) -> float:
    """One checkpoint: float32 weights and Adam's two moments, the weights, and their export."""
    # Without ZeRO there is no second float32 copy.
    trained = _MASTER_AND_MOMENTS if config.learner.zero_stage else 8
    return parameters * (trained + 2 * ITEMSIZE[config.dtype])


def kept_checkpoints(config: RunConfig) -> int:
    """Checkpoints that are on the disk at once: those that are kept, and the one being written."""
    best = config.checkpoint.keep_best and config.eval.every > 0
    return config.checkpoint.keep_last + best + 1


def journal_bytes_per_step(config: RunConfig, load: Load) -> float:
    """Bytes of the rollouts of one training batch in the journal."""
    prompts = config.rollout.groups_per_step * load.prompt * 4
    return load.batch * (load.completion * _TOKEN + _ROLLOUT) + prompts
