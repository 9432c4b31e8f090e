"""What verl's functions give for a random batch: the values that ours are compared with.

verl pins other versions of what asyncds needs, so that both don't install together; without its
dependencies it does:

    pip install --target /tmp/verl --no-deps verl==0.9.1 tensordict omegaconf pyvers orjson \
        antlr4-python3-runtime==4.9.3 codetiming hydra-core torchdata
    PYTHONPATH=/tmp/verl python benchmarks/verl_values.py

in the environment of asyncds writes tests/unit/algo/verl.json anew: the batch, and for each case
the loss and its gradient, or values per token or rollout. `benchmarks/against_verl.py` compares.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verl
from torch import Tensor
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

FILE = Path(__file__).parents[1] / "tests/unit/algo/verl.json"
LENGTHS = [3, 6, 1, 4, 6, 2, 5, 3]
LONGEST = 6
GROUPS = [0, 0, 0, 0, 1, 1, 1, 1]

LOSSES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "clip": (core_algos.compute_policy_loss_vanilla, "token-mean", {}),
    "clip, sequence mean": (core_algos.compute_policy_loss_vanilla, "seq-mean-token-mean", {}),
    "clip, constant length": (
        core_algos.compute_policy_loss_vanilla,
        "seq-mean-token-sum-norm",
        {},
    ),
    "gspo": (core_algos.compute_policy_loss_gspo, "seq-mean-token-mean", {}),
    "cispo": (core_algos.compute_policy_loss_cispo, "token-mean", {}),
    "dppo": (core_algos.compute_policy_loss_dppo_tv, "token-mean", {"clip_ratio_c": 20.0}),
    "reinforce": (core_algos.compute_policy_loss_gpg, "token-mean", {}),
}
CLIP = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
BOUND = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}


def batch() -> dict[str, Tensor]:
    """Random log-probs, advantages and rewards, padded [N, LONGEST] or [N], float64."""
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), LONGEST)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    old = -noise().abs() - 0.05
    return {
        "old": old,
        "current": (old + 0.4 * noise()).clamp(max=-0.001),
        "reference": (old + 3 * noise()).clamp(max=-0.001),
        "advantage": noise()[:, 0],
        "reward": torch.tensor([1, 0, 0.1, 1, 0.1, 0, 0.5, 0], dtype=torch.float64),
    }


def main() -> None:
    given = batch()
    mask = (torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]).double()
    cases: dict[str, Any] = {}
    for name, (function, mode, more) in LOSSES.items():
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=4,
            use_dynamic_bsz=True,
            **(BOUND if name == "dppo" else CLIP) | more,
        )
        current = given["current"].clone().requires_grad_()
        loss, _ = function(
            old_log_prob=given["old"],
            log_prob=current,
            advantages=given["advantage"][:, None].expand_as(current),
            response_mask=mask,
            loss_agg_mode=mode,
            config=config,
        )
        loss.backward()
        gradient = current.grad[mask.bool()].tolist()
        cases[name] = {"loss": loss.item(), "gradient": gradient}
    for kind in ("k1", "k2", "k3"):
        value = core_algos.kl_penalty_forward(given["current"], given["reference"], kind)
        cases[kind] = {"values": value[mask.bool()].tolist()}
    rewards = torch.zeros_like(given["old"])
    rewards[:, 0] = given["reward"]
    index = np.array(GROUPS)
    advantages = {
        "grpo": core_algos.compute_grpo_outcome_advantage(rewards, mask, index),
        "grpo, no std": core_algos.compute_grpo_outcome_advantage(
            rewards, mask, index, norm_adv_by_std_in_grpo=False
        ),
        "grpo, leave one out": core_algos.compute_rloo_outcome_advantage(rewards, mask, index),
        "best of group": core_algos.compute_grpo_passk_outcome_advantage(
            rewards, mask, index, config=AlgoConfig(norm_adv_by_std_in_grpo=False)
        ),
    }
    cases |= {name: {"values": found[:, 0].tolist()} for name, (found, _) in advantages.items()}
    flat = {name: (x[mask.bool()] if x.ndim == 2 else x).tolist() for name, x in given.items()}
    text = {
        "verl": verl.__version__,
        "length": LENGTHS,
        "group": GROUPS,
        "longest": LONGEST,
        **flat,
        "cases": cases,
    }
    FILE.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
