"""The DeepSpeed configuration and the learning-rate schedule. Pure."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from asyncds.config.engines import LearnerConfig

DType = Literal["float32", "bfloat16"]


def deepspeed_config(settings: LearnerConfig, *, dtype: DType) -> dict[str, Any]:
    """Build what ``deepspeed.initialize`` takes.

    ``settings.deepspeed`` is merged in, key by key, and wins.
    """
    zero_stage = settings.zero_stage
    config: dict[str, Any] = {
        # The engine counts its own batches and sets the accumulation boundary itself.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": zero_stage},
    }
    if zero_stage == 0:
        # Without ZeRO, DeepSpeed does not report the norm: the engine measures and clips.
        config["gradient_clipping"] = 0.0
    if dtype == "bfloat16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        # Summed in bfloat16, the gradient would depend on the number of micro-batches.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    return _merged(config, settings.deepspeed)


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged


def lr_factor(step: int, *, settings: LearnerConfig, total_steps: int) -> float:
    """Compute the factor of the peak learning rate in optimizer step ``step`` (from 0), in [0, 1].

    It rises linearly over ``warmup_steps`` (the first step is not zero), then stays, or falls to
    zero at ``total_steps`` along a line or half a cosine.
    """
    schedule, warmup_steps = settings.lr_schedule, settings.warmup_steps
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
