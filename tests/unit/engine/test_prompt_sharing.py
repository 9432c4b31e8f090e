"""Completions in the row of their prompt against the same in rows of their own."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, Qwen2Config, Qwen2ForCausalLM

from asyncds.engine.micro_batches import ShardIndex
from asyncds.engine.policy_model import PolicyModel
from asyncds.engine.prompt_sharing_check import try_out, why_not
from asyncds.engine.shared_prompts import Members
from tests.unit.engine.test_micro_batches import one_group, shard_of
from tests.unit.engine.test_policy_model import SIZES, VOCABULARY, build

FULL_ATTENTION = [
    "qwen2-tied",
    "qwen2-untied",
    "llama",
    "granite-divisor",
    "gpt2-dropout",
    "phi-bias",
    "cohere-multiplier",
]


def scores_and_gradient(policy: PolicyModel, members: Members) -> tuple[np.ndarray, torch.Tensor]:
    """Log-probabilities of the sampled tokens in the shard's order, and the gradient."""
    table = one_group(prompt=5, length=4, n=3)
    shard = shard_of(table, 0)
    for ids in (shard.prompt_ids, shard.completion_ids):
        ids %= VOCABULARY
    index = ShardIndex(shard)
    batch: dict[str, Any] = {
        name: None if array is None else torch.from_numpy(array)
        for name, array in vars(index.assemble(members)).items()
    }
    order, batch["sequence"] = batch.pop("token_index"), None
    del batch["sequence"]
    log_probs = policy(**batch, temperature=0.7, with_entropy=True).log_probs
    flat = torch.zeros(len(shard.logprobs), dtype=log_probs.dtype).index_put((order,), log_probs)
    policy.zero_grad()
    (flat * torch.linspace(-1, 2, len(flat))).sum().backward()
    gradient = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return flat.detach().numpy(), torch.cat(gradient)


@pytest.mark.parametrize("name", FULL_ATTENTION)
def test_scores_and_gradients_are_those_of_rows_of_their_own(name: str) -> None:
    policy = PolicyModel(causal_lm=build(name).train(), chunk_tokens=1000)
    assert why_not(policy.causal_lm) is None
    apart, gradient_apart = scores_and_gradient(policy, [np.array([i]) for i in range(3)])
    for rows in ([[0, 1, 2]], [[0, 2], [1]]):
        together, gradient = scores_and_gradient(policy, [np.array(row) for row in rows])
        np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, gradient_apart, rtol=1e-4, atol=1e-5)
    device = torch.device("cpu")
    assert try_out(policy, vocabulary=VOCABULARY, device=device, tolerance=1e-5) is None


def test_a_model_whose_layers_do_not_see_everything_is_known_by_its_configuration() -> None:
    assert why_not(build("gemma2-softcap")) == "it has layers of sliding_attention"
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert why_not(model) == "attention of the kind flash_attention_2 takes no mask of its own"


def test_what_a_configuration_does_not_say_shows_in_a_trial() -> None:
    options = {"vocabulary": VOCABULARY, "device": torch.device("cpu"), "tolerance": 1e-3}

    by_distance = BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)
    policy = PolicyModel(causal_lm=BloomForCausalLM(by_distance), chunk_tokens=1000)
    assert "takes no such mask" in str(try_out(policy, **options))

    class Deaf(Qwen2ForCausalLM):
        """Its positions are those of the row, whatever it is told."""

        def __init__(self, config: Qwen2Config) -> None:
            super().__init__(config)
            self.model.register_forward_pre_hook(
                lambda _, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
            )

    torch.manual_seed(0)
    policy = PolicyModel(causal_lm=Deaf(Qwen2Config(**SIZES)), chunk_tokens=1000)
    assert "log-probabilities change by" in str(try_out(policy, **options))
