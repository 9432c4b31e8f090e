"""The objective against TRL's own ``GRPOTrainer``: the same numbers from code we didn't write.

TRL's methods are called, none is copied. A trainer is made around a tiny Qwen2 with random weights.

- Losses: ``_compute_loss``. It computes the log-probs of its tokens by a forward pass; that single
  method is replaced, so that both sides differentiate with respect to the same random log-probs.
- Log-probs and entropy: that method itself, unreplaced.
- Advantages and importance weights: they have no function of their own, so the method that holds
  them, ``_generate_and_score_completions``, is run, with completions from TRL's ``rollout_func``
  hook. TRL weighs only tokens of vLLM: ``use_vllm`` is set on the finished trainer, which therefore
  starts no engine.

The model is in evaluation mode, in which TRL doesn't divide by gradient accumulation steps. What
TRL defines otherwise is said where it is compared.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from asyncds.algo.advantages.group_relative import STD_EPSILON
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.aggregation import Aggregation, ConstantLength, SequenceMean, TokenMean
from asyncds.algo.corrections.base import Correction
from asyncds.algo.corrections.icepop import IcePop
from asyncds.algo.corrections.sequence import SequenceTis
from asyncds.algo.corrections.sequence_mask import SequenceMask
from asyncds.algo.corrections.tis import Tis
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.objective import Objective
from asyncds.engine.policy_model import PolicyModel
from tests.support.objectives import make_objective, table

VOCABULARY = 13
LONGEST = 6
LENGTHS = [3, 6, 1, 0, 4, 6, 2, 5]  # an empty completion too
TRL_STD_EPSILON = 1e-4

Trainer = Callable[..., GRPOTrainer]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def trainer_with(model_folder: Path, tmp_path: Path) -> Trainer:
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<eos>")),
        eos_token="<eos>",
        pad_token="<eos>",
    )

    def make(
        *, reward: Any = lambda completions, **_: [0.0] * len(completions), **options: Any
    ) -> GRPOTrainer:
        rollout = options.pop("rollout_func", None)
        defaults = {
            "output_dir": str(tmp_path),
            "use_cpu": True,
            "bf16": False,
            "model_init_kwargs": {"dtype": "float32"},
            "report_to": [],
            "per_device_train_batch_size": len(LENGTHS),
            "num_generations": 4,
            "max_completion_length": LONGEST,
        }
        trainer = GRPOTrainer(
            model=str(model_folder),
            reward_funcs=reward,
            args=GRPOConfig(**defaults | options),
            train_dataset=Dataset.from_dict({"prompt": ["w1 w2"] * len(LENGTHS)}),
            processing_class=tokenizer,
            rollout_func=rollout,
        )
        trainer.model.eval()
        return trainer

    return make


class Tokens:
    """Random tokens of N completions, padded [N, LONGEST] for TRL and flat [T] for us."""

    def __init__(self, *, drift: float = 0.4) -> None:
        generator = torch.Generator().manual_seed(3)
        shape = (len(LENGTHS), LONGEST)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator).double()

        self.length = torch.tensor(LENGTHS)
        self.mask = torch.arange(LONGEST) < self.length[:, None]
        self.sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), self.length)
        self.old = -noise().abs() - 0.5
        self.current = (self.old + drift * noise()).requires_grad_()
        self.behaviour = self.old + drift * noise()
        self.reference = self.old + drift * noise()
        self.entropy = noise().abs().requires_grad_()
        self.reward = torch.randn(len(LENGTHS), generator=generator)

    def theirs(self, trainer: GRPOTrainer, advantage: Tensor, **extra: Tensor) -> list[Tensor]:
        """TRL's loss and its gradients by log-probs and entropies, [N, LONGEST]."""
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (  # replaces the forward pass
            self.current,
            self.entropy,
            None,
        )
        loss = trainer._compute_loss(
            trainer.model,
            {
                "prompt_ids": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
                "prompt_mask": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
                "completion_ids": torch.ones_like(self.mask, dtype=torch.int64),
                "completion_mask": self.mask.long(),
                "advantages": advantage.double(),
                "old_per_token_logps": self.old,
                "ref_per_token_logps": self.reference,
                "num_items_in_batch": self.length.sum(),
                **extra,
            },
        )
        return self._with_gradients(loss)

    def ours(self, objective: Objective, **policies: Tensor) -> tuple[list[Tensor], Tensor]:
        """Our loss and gradients in the same shape; then the advantages, float32 [N]."""
        sequences = objective.sequence_advantages(
            table(
                reward=self.reward,
                correct=self.reward > 0,
                group=torch.arange(len(LENGTHS)) // 4,
                length=self.length,
            )
        )
        total, _ = objective.loss(
            sequences=sequences,
            sequence=self.sequence,
            current=self.current[self.mask],
            reference=self.reference[self.mask] if objective.config.needs_reference else None,
            entropy=self.entropy[self.mask] if objective.config.needs_entropy else None,
            **{name: x[self.mask] for name, x in policies.items()},
        )
        return self._with_gradients(total / self.length.sum()), sequences.base

    def _with_gradients(self, loss: Tensor) -> list[Tensor]:
        inputs = (self.current, self.entropy)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        return [loss.detach(), *gradients]


def assert_same(theirs: list[Tensor], ours: list[Tensor]) -> None:
    assert theirs[1].any()
    for mine, other in zip(ours, theirs, strict=True):
        # The weights that make a mean of sequences are float32.
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


AGGREGATIONS = {
    "dapo": TokenMean(),
    "bnpo": TokenMean(),
    "grpo": SequenceMean(),
    "dr_grpo": ConstantLength(tokens=LONGEST),
}


@pytest.mark.parametrize("role", ["behaviour", "proximal"])
@pytest.mark.parametrize("dual_clip", [None, 1.6])
@pytest.mark.parametrize(("kind", "aggregation"), AGGREGATIONS.items())
def test_clip_with_kl_penalty(
    trainer_with: Trainer, kind: str, aggregation: Aggregation, dual_clip: float | None, role: str
) -> None:
    """TRL's one old policy is our μ, or our π_old. Its ``delta`` is the dual clip. By default it
    multiplies the KL term by the ratio; ours is not weighted, as with ``use_bias_correction_kl``
    off."""
    tokens = Tokens()
    trainer = trainer_with(
        loss_type=kind,
        epsilon_high=0.28,
        delta=dual_clip,
        beta=0.05,
        use_bias_correction_kl=False,
    )
    objective = make_objective(
        loss=Clip(dual=dual_clip, ratio=role),  # type: ignore[arg-type]
        kl={"coef": 0.05},
        aggregation=aggregation,
        updates_per_batch=2,
    )
    # Whichever policy is below the ratio, the other doesn't matter.
    policies = {"behaviour": tokens.reference, "proximal": tokens.reference, role: tokens.old}
    ours, advantage = tokens.ours(objective, **policies)
    assert_same(tokens.theirs(trainer, advantage), ours)
    assert not ours[1][~tokens.mask].any()


@pytest.mark.parametrize(("kind", "aggregation"), AGGREGATIONS.items())
def test_gspo(trainer_with: Trainer, kind: str, aggregation: Aggregation) -> None:
    """TRL differentiates a sequence's ratio through its mean, we through each token's own log-prob:
    with one advantage for a sequence the gradients are the same."""
    tokens = Tokens()
    trainer = trainer_with(
        loss_type=kind, importance_sampling_level="sequence", epsilon=0.05, epsilon_high=0.1
    )
    objective = make_objective(loss=Gspo(low=0.05, high=0.1), aggregation=aggregation)
    ours, advantage = tokens.ours(objective, behaviour=tokens.old)
    assert_same(tokens.theirs(trainer, advantage), ours)


def test_cispo(trainer_with: Trainer) -> None:
    """TRL's ``epsilon_high`` is the cap itself. It has this loss as a mean over tokens only."""
    tokens = Tokens()
    trainer = trainer_with(loss_type="cispo", epsilon_high=1.3)
    ours, advantage = tokens.ours(make_objective(loss=Cispo(cap=1.3)), behaviour=tokens.old)
    assert_same(tokens.theirs(trainer, advantage), ours)


def test_entropy_bonus(trainer_with: Trainer) -> None:
    """TRL's bonus is a mean over tokens whatever the loss, so it is compared in that aggregation;
    ours follows the aggregation."""
    tokens = Tokens()
    trainer = trainer_with(loss_type="bnpo", entropy_coef=0.02)
    objective = make_objective(loss=Clip(high=0.2, dual=None), entropy_coef=0.02)
    ours, advantage = tokens.ours(objective, behaviour=tokens.old)
    assert_same(tokens.theirs(trainer, advantage), ours)
    assert ours[2].any()


# --- what TRL computes with the completions -------------------------------------------------------


def scored(trainer_with: Trainer, tokens: Tokens, **options: Any) -> tuple[GRPOTrainer, Any]:
    """What TRL makes of completions of full length with given rewards and log-probs."""

    def rollout(prompts: list[str], _: GRPOTrainer) -> dict[str, Any]:
        return {
            "prompt_ids": [[1, 2]] * len(prompts),
            "completion_ids": [[3] * LONGEST] * len(prompts),
            "logprobs": tokens.behaviour.tolist(),
        }

    trainer = trainer_with(
        reward=lambda completions, **_: tokens.reward.tolist(), rollout_func=rollout, **options
    )
    trainer.use_vllm = True
    trainer._last_loaded_step = trainer.state.global_step  # there is no engine to bring up to date
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (tokens.old, None, None)
    inputs = [{"prompt": "w1 w2"} for _ in LENGTHS]
    return trainer, trainer._generate_and_score_completions(inputs)


def grpo(tokens: Tokens, scale: str) -> Tensor:
    rewards = table(reward=tokens.reward, group=torch.arange(len(LENGTHS)) // 4)
    return torch.tensor(Grpo(scale=scale)(rewards), dtype=torch.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("rewards", ["normal", "0/1", "equal"])
def test_advantages(trainer_with: Trainer, rewards: str) -> None:
    """Without scaling they are the same. TRL's std is that of a sample (n − 1), ours that of the
    population, smaller by sqrt((n − 1)/n); and TRL adds 1e-4 to it, we 1e-6."""
    tokens = Tokens()
    if rewards == "0/1":
        tokens.reward = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 1])
    elif rewards == "equal":
        tokens.reward = torch.full((len(LENGTHS),), 0.5)
    plain = grpo(tokens, "none")
    _, theirs = scored(trainer_with, tokens, scale_rewards="none")
    torch.testing.assert_close(plain, theirs["advantages"], rtol=1e-5, atol=1e-6)

    ours = grpo(tokens, "std")
    _, theirs = scored(trainer_with, tokens, scale_rewards="group")
    std = tokens.reward.view(-1, 4).std(dim=1, correction=0).repeat_interleave(4)
    factor = (std + STD_EPSILON) / (std * (4 / 3) ** 0.5 + TRL_STD_EPSILON)
    torch.testing.assert_close(ours * factor, theirs["advantages"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "low", "high", "correction"),
    [
        ("token_truncate", None, 1.5, Tis(cap=1.5)),
        ("token_mask", 0.7, 1.5, IcePop(low=0.7, high=1.5)),
        ("sequence_truncate", None, 1.8, SequenceTis(cap=1.8)),
        ("sequence_mask", 0.3, 2.5, SequenceMask(low=0.3, high=2.5)),
    ],
)
def test_importance_weights_and_the_loss_they_weigh(
    trainer_with: Trainer, mode: str, low: float | None, high: float, correction: Correction
) -> None:
    """TRL weighs the sequences that its ``sequence_mask`` keeps by their ratio, and we by 1: there
    it is which ones are kept that is compared."""
    tokens = Tokens()
    trainer, batch = scored(
        trainer_with,
        tokens,
        loss_type="bnpo",
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    theirs = batch["importance_sampling_ratio"].expand_as(tokens.old)
    weights = correction(
        tokens.behaviour.flatten(),
        tokens.old.flatten(),
        torch.arange(len(LENGTHS)).repeat_interleave(LONGEST),
    )
    assert weights.keep.any()
    assert weights.truncated.any() or not weights.keep.all()
    if mode == "sequence_mask":
        assert torch.equal(weights.keep, theirs.flatten() > 0)
        return
    ours = weights.apply(torch.ones_like(weights.weight))
    torch.testing.assert_close(ours, theirs.flatten(), rtol=1e-5, atol=1e-6)

    if mode.startswith("token"):
        # The loss that TRL makes of the batch it has just scored, but for our advantages.
        tokens.length = torch.full_like(tokens.length, LONGEST)
        tokens.mask = torch.ones_like(tokens.mask)
        tokens.sequence = torch.arange(len(LENGTHS)).repeat_interleave(LONGEST)
        objective = make_objective(
            loss=Clip(high=0.2, dual=None, ratio="proximal"),
            correction=correction,
            updates_per_batch=2,
        )
        mine, advantage = tokens.ours(objective, behaviour=tokens.behaviour, proximal=tokens.old)
        assert_same(
            tokens.theirs(trainer, advantage, importance_sampling_ratio=theirs.double()),
            mine,
        )


def test_logprobs_and_entropy_of_a_model(trainer_with: Trainer, model_folder: Path) -> None:
    """Not part of the objective, but what it reads: TRL's forward pass and the learner's."""
    trainer = trainer_with(temperature=0.7)
    ids = torch.randint(1, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    logprobs, entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.ones_like(ids), 5, compute_entropy=True
    )
    policy = PolicyModel(
        causal_lm=Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
        chunk_tokens=4,
    )
    row = torch.arange(3).repeat_interleave(5)
    column = torch.arange(2, 7).repeat(3)
    scores = policy(ids, row, column, ids[row, column + 1], temperature=0.7, with_entropy=True)
    assert scores.entropy is not None
    torch.testing.assert_close(scores.log_probs, logprobs.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.entropy, entropy.flatten(), rtol=1e-4, atol=1e-5)
