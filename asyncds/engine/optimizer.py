"""AdamW as the learner uses it: which parameters decay, and where its state is kept."""

from typing import Any

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch import nn

from asyncds.config.engines import LearnerConfig
from asyncds.config.passed_on import offload_device


def make_optimizer(model: nn.Module, settings: LearnerConfig) -> torch.optim.Optimizer:
    """AdamW over a model's parameters.

    DeepSpeed's own for the CPU where its state is kept there, which DeepSpeed asks for, else
    PyTorch's.
    """
    options: dict[str, Any] = {
        "lr": settings.lr,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    groups = parameter_groups(model, settings)
    zero = settings.deepspeed.get("zero_optimization")
    if offload_device(zero, "offload_optimizer") == "cpu":
        return DeepSpeedCPUAdam(groups, adamw_mode=True, **options)
    return torch.optim.AdamW(groups, **options)


def parameter_groups(model: nn.Module, settings: LearnerConfig) -> list[dict[str, Any]]:
    """Parameters that decay and those that do not, as an optimizer takes them.

    Vectors (norms and biases) do not decay unless ``settings.decay_vectors``. Under ZeRO-3 a
    parameter that is partitioned is flat, its true shape is ``ds_shape``.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.decay_vectors or not settings.weight_decay:
        return [{"params": parameters}]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
