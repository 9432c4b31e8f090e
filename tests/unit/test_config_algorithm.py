"""Every choice can be written, read back and turned into an objective; bad ones say why not."""

from typing import Any

import pytest
from pydantic import ValidationError

from asyncds.algo.advantages import DifferentialSmoothing, Grpo, Unlikeliness
from asyncds.algo.best_of_k import BestOfGroup, GrPkpo, Pkpo
from asyncds.algo.objective import Objective
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


def built(values: dict[str, Any]) -> Objective:
    """Through the text form and back."""
    config = AlgorithmConfig.model_validate(values)
    again = AlgorithmConfig.model_validate_json(config.model_dump_json())
    assert again == config
    return build_objective(again)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_an_advantage_becomes_what_it_says(kind: str) -> None:
    values, expected = ADVANTAGES[kind]
    objective = built({"advantage": values})
    assert {name: getattr(objective, name) for name in expected} == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "reward_mean over std": ({"advantage": {"kind": "ds_grpo", "form": "reward_mean"}}, "undo"),
    "negative gamma": ({"advantage": {"kind": "ds_grpo", "gamma_p": -1}}, "greater than or equal"),
    "strength": ({"advantage": {"kind": "unlikeliness", "strength": 2}}, "less than or equal"),
    "pkpo k": ({"advantage": {"kind": "pkpo", "k": 0}}, "greater than or equal"),
    "gr_pkpo k": ({"advantage": {"kind": "gr_pkpo", "k": 0}}, "greater than or equal"),
    "another's field": ({"advantage": {"kind": "grpo", "gamma_p": 1}}, "Extra inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(case: str) -> None:
    values, reason = REFUSED[case]
    with pytest.raises(ValidationError, match=reason):
        AlgorithmConfig.model_validate(values)
