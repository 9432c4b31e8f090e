"""What the coordinator calls a group without signal is what the learner gets no gradient from."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.objective import Objective
from asyncds.algo.segments import segment_mean, segment_sum
from asyncds.config.schema import RunConfig
from asyncds.protocol.codec import GroupArrays
from services.coordinator import dynamic_sampling
from tests.simulation.simulated_config import make_config
from tests.support.objectives import table

MAX_TOKENS = 6
SCALES = st.sampled_from(["std", "none"])
BASELINES = st.sampled_from(["mean", "leave_one_out"])
SOURCES = st.sampled_from(["behaviour", "proximal"])
GAMMAS = st.sampled_from(
    [
        0.0,
        0.02,
        {"start": 0.02, "end": 0.0, "steps": 2},
        {"start": 0.0, "end": 0.02, "steps": 1, "after": 1},
    ]
)
KS = st.integers(1, 5)

ADVANTAGES: dict[str, dict[str, st.SearchStrategy]] = {
    "grpo": {"scale": SCALES, "baseline": BASELINES},
    "ds_grpo": {
        "scale": SCALES,
        "baseline": BASELINES,
        "form": st.sampled_from(["token", "seq_mean", "seq_sum"]),
        "gamma_p": GAMMAS,
        "gamma_n": GAMMAS,
        "logprob_source": SOURCES,
    },
    "ds_grpo/reward_mean": {
        "scale": st.just("none"),
        "baseline": BASELINES,
        "form": st.just("reward_mean"),
        "gamma_p": GAMMAS,
        "gamma_n": GAMMAS,
        "logprob_source": SOURCES,
    },
    "unlikeliness": {
        "scale": SCALES,
        "baseline": BASELINES,
        "strength": st.sampled_from([0.0, 0.25, 1.0]),
        "logprob_source": SOURCES,
    },
    "pkpo": {"k": KS, "baseline": st.sampled_from(["none", "leave_one_out"])},
    "gr_pkpo": {"k": KS},
    "best_of_group": {"scale": SCALES},
}
OVERLONG: dict[str, dict[str, st.SearchStrategy]] = {
    "keep": {},
    "mask": {},
    "penalty": {
        "buffer_tokens": st.integers(1, MAX_TOKENS),
        "weight": st.sampled_from([0.25, 1.0]),
    },
}


def choice(choices: dict[str, dict[str, st.SearchStrategy]], kind: str) -> st.SearchStrategy:
    kind_of_choice = st.just(kind.split("/")[0])
    return st.fixed_dictionaries({"kind": kind_of_choice, **choices[kind]})


@st.composite
def groups(draw: st.DrawFn) -> GroupArrays:
    """1 to 5 rollouts; few values, so that much is equal."""
    n = draw(st.integers(1, 5))
    correct = draw(st.one_of(st.just([True] * n), st.just([False] * n), flags(n)))
    # As verifiers do it: correct ones get 1, wrong ones 0 or a little for the form.
    rewards = [1.0 if c else draw(st.sampled_from([0.0, 0.0, 0.125])) for c in correct]
    lengths = draw(st.lists(st.sampled_from([1, 3, MAX_TOKENS]), min_size=n, max_size=n))
    logprobs = [draw(st.sampled_from([0.0, -0.5, -0.75])) for _ in range(sum(lengths))]
    if draw(st.booleans()):
        logprobs = [-0.5] * sum(lengths)
    return GroupArrays(
        prompt_ids=np.array([1], np.int32),
        lengths=np.array(lengths, np.int32),
        completion_ids=np.zeros(sum(lengths), np.int32),
        logprobs=np.array(logprobs, np.float32),
        versions=np.zeros(sum(lengths), np.int32),
        rewards=np.array(rewards, np.float32),
        correct=np.array(correct),
        finished=np.array(draw(st.one_of(flags(n), st.just([False] * n)))),
        answers={"written": [""] * n},
    )


def flags(n: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=n, max_size=n)


def learner_sees_signal(config: RunConfig, group: GroupArrays, *, step: int) -> bool:
    """Any token whose shaped advantage counts in the loss of batch `step`, with π_old = μ."""
    whole = Objective(config.algorithm, max_tokens=config.sampling.max_tokens)
    objective = whole.at(step)
    sums = group.logprob_sums()
    sequences = objective.sequence_advantages(
        table(
            reward=group.rewards,
            correct=group.correct,
            length=group.lengths,
            logprob_sum=sums,
        ),
        proximal_logprob_sum=sums.astype(np.float64),
        finished=group.finished,
    )
    row = torch.repeat_interleave(torch.from_numpy(group.lengths.astype(np.int64)))
    logprobs = torch.from_numpy(group.logprobs).requires_grad_()
    _, summed = objective.loss(
        sequences=sequences,
        sequence=row,
        current=logprobs,
        behaviour=logprobs.detach(),
        proximal=logprobs.detach(),
    )
    assert summed.table.isfinite().all(), "groups smaller than k are groups too"
    advantage = (sequences.base + sequences.shift)[row]
    ds = objective.config.advantage
    if isinstance(ds, DsGrpo) and ds.form != "reward_mean":
        pooled = {
            "token": logprobs.detach(),
            "seq_mean": segment_mean(logprobs.detach(), row, len(sums))[row],
            "seq_sum": segment_sum(logprobs.detach(), row, len(sums))[row],
        }[ds.form]
        correct = torch.from_numpy(group.correct)[row]
        advantage = advantage + torch.where(correct, -ds.gamma_p, ds.gamma_n) * pooled
    return bool(((advantage.abs() > 1e-6) & (sequences.policy_weight[row] > 0)).any())


def carries_signal(config: RunConfig, group: GroupArrays, *, step: int = 0) -> bool:
    algorithm = config.algorithm.at(step)
    return dynamic_sampling.carries_signal(algorithm, group, max_tokens=MAX_TOKENS)


def make(advantage: dict[str, Any], overlong: dict[str, Any]) -> RunConfig:
    return make_config(
        sampling={"max_tokens": MAX_TOKENS},
        rollout__group_size=5,
        algorithm={"advantage": advantage, "overlong": overlong},
    )


@pytest.mark.parametrize("overlong", OVERLONG)
@pytest.mark.parametrize("advantage", ADVANTAGES)
@given(data=st.data(), group=groups())
def test_coordinator_and_learner_agree(
    advantage: str, overlong: str, data: st.DataObject, group: GroupArrays
) -> None:
    if overlong == "penalty" and "pkpo" in advantage:
        return  # refused
    chosen = data.draw(choice(ADVANTAGES, advantage))
    config = make(chosen, data.draw(choice(OVERLONG, overlong)))
    step = data.draw(st.integers(0, 3))
    assert carries_signal(config, group, step=step) == learner_sees_signal(config, group, step=step)


def uniform(*, correct: bool, logprobs: list[float]) -> GroupArrays:
    """One-token rollouts that are all correct, or all wrong."""
    n = len(logprobs)
    return GroupArrays(
        prompt_ids=np.array([1], np.int32),
        lengths=np.ones(n, np.int32),
        completion_ids=np.zeros(n, np.int32),
        logprobs=np.array(logprobs, np.float32),
        versions=np.zeros(n, np.int32),
        rewards=np.full(n, float(correct), np.float32),
        correct=np.full(n, correct),
        finished=np.ones(n, bool),
        answers={"written": [""] * n},
    )


@pytest.mark.parametrize(
    ("advantage", "all_correct", "all_wrong"),
    [
        ({"kind": "grpo"}, False, False),
        ({"kind": "ds_grpo", "gamma_p": 0.02, "gamma_n": 0}, True, False),
        ({"kind": "ds_grpo", "gamma_p": 0, "gamma_n": 0.002}, False, True),
        ({"kind": "unlikeliness", "strength": 0.25}, True, False),
        ({"kind": "unlikeliness", "strength": 0}, False, False),
        ({"kind": "pkpo", "k": 2}, False, False),
        ({"kind": "pkpo", "k": 1}, True, False),
        ({"kind": "pkpo", "k": 2, "baseline": "none"}, True, False),
        ({"kind": "gr_pkpo", "k": 2}, False, False),
        ({"kind": "best_of_group"}, False, False),
    ],
)
def test_solved_and_hopeless_groups(
    advantage: dict[str, Any], all_correct: bool, all_wrong: bool
) -> None:
    config = make(advantage, {"kind": "keep"})
    different = [-0.1, -0.2, -0.3, -0.4]
    assert carries_signal(config, uniform(correct=True, logprobs=different)) is all_correct
    assert carries_signal(config, uniform(correct=False, logprobs=different)) is all_wrong


def test_equally_likely_rollouts_have_no_ranks() -> None:
    config = make({"kind": "unlikeliness"}, {"kind": "keep"})
    assert not carries_signal(config, uniform(correct=True, logprobs=[-0.5] * 4))


def test_rounding_is_no_signal() -> None:
    """The mean of three times 0.1 is not 0.1 in floating point."""
    group = uniform(correct=False, logprobs=[-0.5] * 3)
    group.rewards[:] = 0.1
    config = make({"kind": "grpo"}, {"kind": "penalty", "buffer_tokens": 6, "weight": 0.7})
    assert not carries_signal(config, group)
