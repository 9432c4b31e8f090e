"""Our losses, KL estimates and advantages beside verl's, on the same random batch.

python benchmarks/against_verl.py

prints the rows of docs/algorithms.md, "What is checked against whom": the largest absolute
difference of each case. verl's values are in tests/unit/algo/verl.json, which
`benchmarks/verl_values.py` wrote.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncds.algo.advantages.base import Advantage, Sequences
from asyncds.algo.advantages.best_of_group import BestOfGroup
from asyncds.algo.advantages.grpo import Grpo
from asyncds.algo.aggregation import ConstantLength, SequenceMean
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.kl import KL_ESTIMATORS, KlPenalty
from asyncds.algo.losses.cispo import Cispo
from asyncds.algo.losses.clip import Clip
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.losses.gspo import Gspo
from asyncds.algo.losses.reinforce import Reinforce
from asyncds.algo.objective import Objective, SequenceAdvantages

THEIRS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "tests/unit/algo/verl.json").read_text()
)
_CLIP = Clip(low=0.2, high=0.28, dual=3.0)
LOSSES: dict[str, dict[str, Any]] = {
    "clip": {"loss": _CLIP},
    "clip, sequence mean": {"loss": _CLIP, "aggregation": SequenceMean()},
    "clip, constant length": {"loss": _CLIP, "aggregation": ConstantLength()},
    "gspo": {"loss": Gspo(low=0.2, high=0.28), "aggregation": SequenceMean()},
    "cispo": {"loss": Cispo(floor=0.8, cap=1.28)},
    "dppo": {"loss": Dppo(bound=0.2, cap=20.0)},
    "reinforce": {"loss": Reinforce()},
}
ADVANTAGES: dict[str, Advantage] = {
    "grpo": Grpo(std="sample"),
    "grpo, no std": Grpo(scale="none"),
    "grpo, leave one out": Grpo(scale="none", baseline="leave_one_out"),
    "best of group": BestOfGroup(scale="none"),
}


def differences() -> dict[str, float]:
    """The largest absolute difference of each case: of loss and gradient, or of the values."""
    found = {name: _of_loss(name) for name in LOSSES}
    current, reference = _given("current"), _given("reference")
    for kind in ("k1", "k2", "k3"):
        ours = KlPenalty(estimator=kind)(current, reference)
        if kind != "k3":  # verl bounds k3 alone
            ours = KL_ESTIMATORS[kind](current, reference)
        found[kind] = _largest(ours, THEIRS["cases"][kind]["values"])
    return found | {name: _of_advantage(name) for name in ADVANTAGES}


def table() -> str:
    """The rows in Markdown."""
    return "\n".join(f"| {name} | {value:.0e} |" for name, value in differences().items())


def _of_loss(name: str) -> float:
    objective = Objective(
        AlgorithmConfig(advantage=Grpo(), **LOSSES[name]), max_tokens=THEIRS["longest"]
    )
    length = np.array(THEIRS["length"])
    n = len(length)
    weight = objective.config.aggregation(
        length, np.zeros(n, dtype=np.int64), max_tokens=THEIRS["longest"]
    )
    zero, weights = torch.zeros(n, dtype=torch.float64), torch.as_tensor(weight)
    current = _given("current").requires_grad_()
    loss, _ = objective.loss(
        sequences=SequenceAdvantages(
            base=_given("advantage"),
            shift=zero,
            coefficient=zero,
            correct=torch.zeros(n, dtype=torch.bool),
            weight=weights,
            policy_weight=weights,
            entropy_weight=zero,
        ),
        sequence=torch.repeat_interleave(torch.arange(n), torch.as_tensor(length)),
        current=current,
        behaviour=_given("old"),
    )
    mean = loss / int(length.sum())
    (gradient,) = torch.autograd.grad(mean, current)
    theirs = THEIRS["cases"][name]
    apart = abs(mean.item() - theirs["loss"])
    return max(apart, _largest(gradient, theirs["gradient"]))


def _of_advantage(name: str) -> float:
    length = np.array(THEIRS["length"], dtype=np.int64)
    reward = np.array(THEIRS["reward"])
    sequences = Sequences(
        reward=reward,
        correct=reward == 1,
        group=np.array(THEIRS["group"], dtype=np.int64),
        length=length,
        logprob_sum=-np.ones(len(length)),
    )
    return _largest(torch.as_tensor(ADVANTAGES[name](sequences)), THEIRS["cases"][name]["values"])


def _given(name: str) -> Tensor:
    return torch.tensor(THEIRS[name], dtype=torch.float64)


def _largest(ours: Tensor, theirs: list[float]) -> float:
    return float((ours.detach() - torch.tensor(theirs, dtype=torch.float64)).abs().max())


if __name__ == "__main__":
    print(table())
