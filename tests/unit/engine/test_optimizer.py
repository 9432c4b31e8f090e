"""Which parameters decay."""

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from asyncds.config.engines import LearnerConfig
from asyncds.engine.optimizer import make_optimizer, parameter_groups

TINY = Qwen2Config(
    vocab_size=11,
    hidden_size=8,
    num_hidden_layers=1,
    intermediate_size=8,
    num_attention_heads=2,
    num_key_value_heads=2,
)


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {n for n, p in model.named_parameters() if any(p is other for other in parameters)}


def test_norms_and_biases_are_left_alone() -> None:
    model = Qwen2ForCausalLM(TINY)
    decaying, others = parameter_groups(model, LearnerConfig(weight_decay=0.1))
    assert others["weight_decay"] == 0.0
    vectors = names(model, others["params"])
    assert vectors == {n for n, _ in model.named_parameters() if "norm" in n or n.endswith("bias")}
    assert names(model, decaying["params"]) == {n for n, _ in model.named_parameters()} - vectors


def test_a_partitioned_parameter_counts_by_its_true_shape() -> None:
    matrix, vector = (nn.Parameter(torch.zeros(4)) for _ in range(2))
    matrix.ds_shape, vector.ds_shape = torch.Size([2, 2]), torch.Size([4])  # type: ignore[attr-defined]
    model = nn.Module()
    model.matrix, model.vector = matrix, vector
    decaying, others = parameter_groups(model, LearnerConfig(weight_decay=0.1))
    assert (decaying["params"][0] is matrix, others["params"][0] is vector) == (True, True)


def test_a_step_without_gradient_shrinks_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(model, LearnerConfig(weight_decay=0.5, lr=0.1)).step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"0.weight"}


def test_all_decay_or_none_is_one_group() -> None:
    model = nn.Linear(2, 2)
    for settings in (LearnerConfig(), LearnerConfig(weight_decay=0.1, decay_vectors=True)):
        (group,) = parameter_groups(model, settings)
        assert len(group["params"]) == 2
