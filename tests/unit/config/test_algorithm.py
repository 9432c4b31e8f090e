"""Every choice can be written, read back and turned into an objective; bad ones say why not."""

from itertools import product
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from asyncds.algo.advantages import DifferentialSmoothing, Grpo, Unlikeliness
from asyncds.algo.aggregation import ConstantLength, SequenceMean, TokenMean
from asyncds.algo.best_of_k import BestOfGroup, GrPkpo, Pkpo
from asyncds.algo.corrections import (
    GeometricMask,
    IcePop,
    NoCorrection,
    SequenceMask,
    SequenceTis,
    Tis,
)
from asyncds.algo.losses import Cispo, Clip, Dppo, Gspo, Reinforce
from asyncds.algo.objective import DifferentialEntropy, LogLinear, Objective
from asyncds.algo.overlong import OverlongMask, OverlongPenalty
from asyncds.config.algorithm import AlgorithmConfig
from services.learner.objective import build_objective

ADVANTAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"kind": "grpo", "scale": "none", "baseline": "leave_one_out"},
        {"advantage": Grpo(scale="none", baseline="leave_one_out"), "smoothing": None},
    ),
    "ds_grpo": (
        {"kind": "ds_grpo", "form": "seq_sum", "gamma_p": 0.5, "logprob_source": "behaviour"},
        {
            "advantage": Grpo(),
            "smoothing": DifferentialSmoothing(
                gamma_p=0.5, gamma_n=0.002, form="seq_sum", source="behaviour"
            ),
        },
    ),
    "unlikeliness": (
        {"kind": "unlikeliness", "strength": 0.5, "logprob_source": "behaviour", "scale": "none"},
        {"advantage": Unlikeliness(strength=0.5, source="behaviour", scale="none")},
    ),
    "pkpo": (
        {"kind": "pkpo", "k": 3, "baseline": "none"},
        {"advantage": Pkpo(k=3, baseline="none")},
    ),
    "gr_pkpo": ({"kind": "gr_pkpo", "k": 2}, {"advantage": GrPkpo(k=2)}),
    "best_of_group": (
        {"kind": "best_of_group", "scale": "none"},
        {"advantage": BestOfGroup(scale="none")},
    ),
}

CORRECTIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "none": ({"kind": "none"}, NoCorrection()),
    "tis": ({"kind": "tis", "cap": 3}, Tis(cap=3)),
    "icepop": ({"kind": "icepop", "low": 0.2, "high": 4}, IcePop(low=0.2, high=4)),
    "sequence": ({"kind": "sequence", "cap": 3}, SequenceTis(cap=3)),
    "geometric_mask": (
        {"kind": "geometric_mask", "low": 0.9, "high": 1.2},
        GeometricMask(low=0.9, high=1.2),
    ),
    "sequence_mask": (
        {"kind": "sequence_mask", "low": 0.1, "high": 9},
        SequenceMask(low=0.1, high=9),
    ),
}

LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (
        {"kind": "clip", "low": 0.1, "high": 0.3, "dual": None},
        {
            "policy_loss": Clip(eps_low=0.1, eps_high=0.3, dual_clip=None),
            "ratio": "behaviour",
        },
    ),
    "cispo": (
        {"kind": "cispo", "cap": 4, "ratio": "proximal"},
        {"policy_loss": Cispo(cap=4), "ratio": "proximal"},
    ),
    "gspo": (
        {"kind": "gspo", "low": 0.01, "high": 0.02, "ratio": "proximal"},
        {"policy_loss": Gspo(eps_low=0.01, eps_high=0.02), "ratio": "proximal"},
    ),
    "dppo": (
        {"kind": "dppo", "bound": 0.1, "cap": 2, "penalty": 0},
        {"policy_loss": Dppo(bound=0.1, cap=2, penalty=0), "ratio": "behaviour"},
    ),
    "reinforce": ({"kind": "reinforce"}, {"policy_loss": Reinforce(), "ratio": "proximal"}),
}
AGAINST_PROXIMAL = {"kind": "clip", "ratio": "proximal"}


def built(values: dict[str, Any]) -> Objective:
    """Through the text form and back."""
    config = AlgorithmConfig.model_validate(values)
    again = AlgorithmConfig.model_validate_json(config.model_dump_json())
    assert again == config
    return build_objective(again, max_tokens=8)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_an_advantage_becomes_what_it_says(kind: str) -> None:
    values, expected = ADVANTAGES[kind]
    objective = built({"advantage": values})
    assert {name: getattr(objective, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "token_mean"}, TokenMean()),
        ({"kind": "sequence_mean"}, SequenceMean()),
        ({"kind": "constant_length", "tokens": 512}, ConstantLength(tokens=512)),
    ],
)
def test_an_aggregation_becomes_what_it_says(values: dict[str, Any], expected: Any) -> None:
    assert built({"aggregation": values}).aggregation == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "keep"}, None),
        ({"kind": "mask"}, OverlongMask()),
        (
            {"kind": "penalty", "buffer_tokens": 3, "weight": 0.5},
            OverlongPenalty(max_tokens=8, buffer_tokens=3, weight=0.5),
        ),
    ],
)
def test_overlong_becomes_what_it_says(values: dict[str, Any], expected: Any) -> None:
    assert built({"overlong": values}).overlong == expected


def test_entropy_controls_are_there_only_where_they_are_set() -> None:
    assert not built({}).needs_entropy
    assert built({"entropy_coef": -0.1}).entropy_coefficient == -0.1
    control = built({"differential_entropy": {"incorrect": 0.2}})
    assert control.needs_entropy
    assert control.differential_entropy == DifferentialEntropy(correct=0.0, incorrect=0.2)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_becomes_what_it_says(kind: str) -> None:
    values, expected = LOSSES[kind]
    objective = built({"loss": values})
    assert {name: getattr(objective, name) for name in expected} == expected


@pytest.mark.parametrize("kind", CORRECTIONS)
def test_a_correction_becomes_what_it_says(kind: str) -> None:
    values, expected = CORRECTIONS[kind]
    assert built({"loss": AGAINST_PROXIMAL, "correction": values}).correction == expected
    assert built({"loss": {"kind": "reinforce"}, "correction": values}).correction == expected


@pytest.mark.parametrize("kind", CORRECTIONS)
def test_log_linear_serves_every_correction(kind: str) -> None:
    objective = built(
        {
            "loss": AGAINST_PROXIMAL,
            "correction": CORRECTIONS[kind][0],
            "proximal": {"kind": "log_linear", "current": 0.25},
            "updates_per_batch": 2,
        }
    )
    assert objective.proximal == LogLinear(current=0.25)
    assert not objective.needs_proximal


@pytest.mark.parametrize("kind", [kind for kind in CORRECTIONS if kind != "none"])
def test_no_correction_goes_with_a_ratio_against_the_behaviour_policy(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"algorithm\.loss\.ratio to proximal"):
        AlgorithmConfig.model_validate({"correction": CORRECTIONS[kind][0]})


LOG_LINEAR = {"kind": "log_linear"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "reward_mean over std": ({"advantage": {"kind": "ds_grpo", "form": "reward_mean"}}, "undo"),
    "negative gamma": ({"advantage": {"kind": "ds_grpo", "gamma_p": -1}}, "greater than or equal"),
    "strength": ({"advantage": {"kind": "unlikeliness", "strength": 2}}, "less than or equal"),
    "pkpo k": ({"advantage": {"kind": "pkpo", "k": 0}}, "greater than or equal"),
    "gr_pkpo k": ({"advantage": {"kind": "gr_pkpo", "k": 0}}, "greater than or equal"),
    "dppo against the proximal": ({"loss": {"kind": "dppo", "ratio": "proximal"}}, "Extra inputs"),
    "dppo and a correction": (
        {"loss": {"kind": "dppo"}, "correction": {"kind": "tis"}},
        "dppo takes its ratio against the behaviour policy",
    ),
    "log_linear unread": (
        {"advantage": {"kind": "grpo"}, "proximal": LOG_LINEAR},
        "nothing reads a proximal policy",
    ),
    "log_linear and reinforce": (
        {"advantage": {"kind": "grpo"}, "proximal": LOG_LINEAR, "loss": {"kind": "reinforce"}},
        "nothing reads a proximal policy",
    ),
    "log_linear before the update": (
        {"advantage": {"kind": "unlikeliness"}, "proximal": LOG_LINEAR, "loss": AGAINST_PROXIMAL},
        "logprob_source to behaviour",
    ),
    "log_linear by reward_mean": (
        {
            "advantage": {"kind": "ds_grpo", "form": "reward_mean", "scale": "none"},
            "proximal": LOG_LINEAR,
        },
        "logprob_source to behaviour",
    ),
    "log_linear current": ({"proximal": {"kind": "log_linear", "current": 1}}, "less than 1"),
    "band": (
        {"loss": AGAINST_PROXIMAL, "correction": {"kind": "icepop", "low": 2}},
        "less than or equal",
    ),
    "no constant": ({"aggregation": {"kind": "constant_length"}}, "Field required"),
    "constant 0": (
        {"aggregation": {"kind": "constant_length", "tokens": 0}},
        "greater than or equal",
    ),
    "penalty unread by pkpo": (
        {"advantage": {"kind": "pkpo"}, "overlong": {"kind": "penalty", "buffer_tokens": 2}},
        "an overlong penalty would change nothing",
    ),
    "penalty unread by gr_pkpo": (
        {"advantage": {"kind": "gr_pkpo"}, "overlong": {"kind": "penalty", "buffer_tokens": 2}},
        "an overlong penalty would change nothing",
    ),
    "penalty of nothing": (
        {"overlong": {"kind": "penalty", "buffer_tokens": 2, "weight": 0}},
        "greater than 0",
    ),
    "reversed entropy": ({"differential_entropy": {"correct": -0.1}}, "greater than or equal"),
    "another's field": ({"advantage": {"kind": "grpo", "gamma_p": 1}}, "Extra inputs"),
}


PROXIMAL_LOSSES = {
    f"{kind}-proximal": {"kind": kind, "ratio": "proximal"} for kind in ("clip", "cispo", "gspo")
}
ALL_LOSSES = {**{kind: {"kind": kind} for kind in LOSSES}, **PROXIMAL_LOSSES}
ALL_ADVANTAGES = {
    **{name: values for name, (values, _) in ADVANTAGES.items()},
    "ds_grpo-proximal": {"kind": "ds_grpo"},
    "reward_mean": {"kind": "ds_grpo", "form": "reward_mean", "scale": "none"},
    "unlikeliness-proximal": {"kind": "unlikeliness"},
}

PARTS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(AlgorithmConfig.model_fields[name].rebuild_annotation())
    for name in ("advantage", "loss", "correction", "proximal")
}


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("advantage", ALL_ADVANTAGES)
def test_the_configuration_refuses_what_the_objective_refuses(advantage: str, loss: str) -> None:
    """In every combination with a correction and a proximal policy, neither more nor less."""
    for (correction, _), proximal in product(CORRECTIONS.values(), ["recomputed", "log_linear"]):
        values = {
            "advantage": ALL_ADVANTAGES[advantage],
            "loss": ALL_LOSSES[loss],
            "correction": correction,
            "proximal": {"kind": proximal},
        }
        parts = {name: PARTS[name].validate_python(value) for name, value in values.items()}
        unchecked = AlgorithmConfig.model_construct(**parts)
        try:
            build_objective(unchecked, max_tokens=8)
        except ValueError:
            with pytest.raises(ValidationError):
                AlgorithmConfig.model_validate(values)
        else:
            built(values)


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(case: str) -> None:
    values, reason = REFUSED[case]
    with pytest.raises(ValidationError, match=reason):
        AlgorithmConfig.model_validate(values)
