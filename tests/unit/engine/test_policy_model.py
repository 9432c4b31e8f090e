"""The chunked projection against the model's own logits, in float64."""

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from asyncds.engine.policy_model import (
    PolicyModel,
    UnsupportedModelError,
    check_head,
)

VOCABULARY = 37
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    # Large, so that the logits are too and a softcap shows.
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
MODELS = {
    "qwen2-tied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2-untied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": False}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"attention_dropout": 0.5}),
    "gemma2-softcap": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 3.0}),
    "granite-divisor": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 4.0}),
    "gpt2-dropout": (GPT2LMHeadModel, GPT2Config, {"resid_pdrop": 0.5}),
    "phi-bias": (PhiForCausalLM, PhiConfig, {}),
    "cohere-multiplier": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.25}),
}


def build(name: str) -> PreTrainedModel:
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    return model(config(**SIZES, **options)).double()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three right-padded rows with completions of 5, 3 and 1 tokens."""
    torch.manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (3, 9))
    row = torch.tensor([0] * 5 + [1] * 3 + [2])
    column = torch.tensor([3, 4, 5, 6, 7, 2, 3, 4, 1])
    targets = torch.randint(1, VOCABULARY, (9,))
    return ids, row, column, targets


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
def test_scores_and_gradients_equal_those_of_the_full_logits(name: str, chunk_tokens: int) -> None:
    temperature = 0.7
    ids, row, column, targets = batch()
    weights = torch.linspace(-1, 2, 9, dtype=torch.float64)

    plain = build(name).eval()
    log_p = (plain(input_ids=ids).logits[row, column] / temperature).log_softmax(1)
    expected = log_p[torch.arange(9), targets]
    expected_entropy = -(log_p.exp() * log_p).sum(1)
    (weights * expected + weights.flip(0) * expected_entropy).sum().backward()

    policy = PolicyModel(causal_lm=build(name).train(), chunk_tokens=chunk_tokens)
    scores = policy(ids, row, column, targets, temperature=temperature, with_entropy=True)
    assert scores.entropy is not None
    (weights * scores.log_probs + weights.flip(0) * scores.entropy).sum().backward()

    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores.entropy, expected_entropy, rtol=1e-9, atol=1e-9)
    for (parameter, mine), theirs in zip(
        policy.causal_lm.named_parameters(), plain.parameters(), strict=True
    ):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-9, msg=parameter)


def test_without_entropy_the_gradient_is_the_same() -> None:
    ids, row, column, targets = batch()
    gradients = []
    for with_entropy in (True, False):
        policy = PolicyModel(causal_lm=build("llama"), chunk_tokens=4)
        scores = policy(ids, row, column, targets, temperature=1.0, with_entropy=with_entropy)
        scores.log_probs.sum().backward()
        gradients.append(policy.causal_lm.lm_head.weight.grad)
    assert scores.entropy is None
    torch.testing.assert_close(*gradients)


def test_scores_are_float32_under_bfloat16_weights() -> None:
    ids, row, column, targets = batch()
    model = build("qwen2-tied")
    exact = PolicyModel(causal_lm=model, chunk_tokens=4)(ids, row, column, targets, temperature=1.0)
    policy = PolicyModel(causal_lm=model.bfloat16(), chunk_tokens=4)
    scores = policy(ids, row, column, targets, temperature=1.0)
    assert scores.log_probs.dtype == torch.float32
    torch.testing.assert_close(scores.log_probs.double(), exact.log_probs, rtol=0.1, atol=0.2)


def test_nothing_to_score_still_reaches_every_parameter() -> None:
    """What an idle rank does under ZeRO: gradients of zero, not absent ones."""
    policy = PolicyModel(causal_lm=build("qwen2-untied"), chunk_tokens=4)
    none = torch.empty(0, dtype=torch.int64)
    scores = policy(torch.zeros(1, 1, dtype=torch.int64), none, none, none, temperature=1.0)
    scores.log_probs.sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("name", MODELS)
def test_the_check_passes_models_whose_head_is_reproduced(name: str) -> None:
    policy = PolicyModel(causal_lm=build(name).float(), chunk_tokens=4)
    check_head(policy, vocabulary=VOCABULARY, device=torch.device("cpu"))


def test_the_check_refuses_a_head_that_does_more() -> None:
    class Sharpened(LlamaForCausalLM):
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.5
            return output

    policy = PolicyModel(causal_lm=Sharpened(LlamaConfig(**SIZES)), chunk_tokens=4)
    with pytest.raises(UnsupportedModelError, match="more than final_logit_softcapping"):
        check_head(policy, vocabulary=VOCABULARY, device=torch.device("cpu"))


def test_the_check_refuses_randomness() -> None:
    policy = PolicyModel(causal_lm=build("llama").float(), chunk_tokens=4)
    assert policy.causal_lm.model.layers[0].self_attn.attention_dropout == 0.0
    policy.causal_lm.model.layers[0].self_attn.attention_dropout = 0.5
    with pytest.raises(UnsupportedModelError, match="they differ by"):
        check_head(policy, vocabulary=VOCABULARY, device=torch.device("cpu"))
