"""Every choice can be written and read back; combinations that make no sense say why not."""

from itertools import product
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from asyncds.algo import advantages, corrections, losses
from asyncds.algo.advantages.base import Advantage
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.corrections.base import Correction
from asyncds.algo.losses.base import Loss
from asyncds.choices.choice import kinds_in

ADVANTAGES = {kind.model_fields["kind"].default: kind for kind in kinds_in(advantages, Advantage)}
LOSSES = {kind.model_fields["kind"].default: kind for kind in kinds_in(losses, Loss)}
CORRECTIONS = {
    kind.model_fields["kind"].default: kind for kind in kinds_in(corrections, Correction)
}
AGAINST_PROXIMAL = {"kind": "clip", "ratio": "proximal"}
LOG_LINEAR = {"kind": "log_linear"}


def read(values: dict[str, Any]) -> AlgorithmConfig:
    """Through the text form and back."""
    config = AlgorithmConfig.model_validate(values)
    again = AlgorithmConfig.model_validate_json(config.model_dump_json())
    assert again == config
    return again


def test_every_module_is_a_kind() -> None:
    assert sorted(ADVANTAGES) == [
        *("best_of_group", "ds_grpo", "gr_pkpo", "grpo", "pkpo", "unlikeliness"),
    ]
    assert sorted(LOSSES) == ["cispo", "clip", "dppo", "gspo", "reinforce"]
    assert sorted(CORRECTIONS) == [
        *("geometric_mask", "icepop", "none", "sequence", "sequence_mask", "tis"),
    ]


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_an_advantage_is_what_it_says(kind: str) -> None:
    assert type(read({"advantage": {"kind": kind}}).advantage) is ADVANTAGES[kind]


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_what_it_says(kind: str) -> None:
    assert type(read({"loss": {"kind": kind}}).loss) is LOSSES[kind]


@pytest.mark.parametrize("kind", CORRECTIONS)
def test_a_correction_is_what_it_says(kind: str) -> None:
    values = {"loss": AGAINST_PROXIMAL, "correction": {"kind": kind}}
    assert type(read(values).correction) is CORRECTIONS[kind]
    values["loss"] = {"kind": "reinforce"}
    assert type(read(values).correction) is CORRECTIONS[kind]


def test_fields_keep_what_they_are_given() -> None:
    values: dict[str, Any] = {
        "advantage": {"kind": "ds_grpo", "form": "seq_sum", "gamma_p": 0.5, "scale": "none"},
        "loss": {"kind": "cispo", "ratio": "proximal", "cap": 4.0},
        "correction": {"kind": "icepop", "low": 0.2, "high": 4.0},
        "proximal": {"kind": "log_linear", "current": 0.25},
        "kl": {"coef": 0.1, "estimator": "k2"},
        "entropy_coef": -0.1,
        "differential_entropy": {"incorrect": 0.2},
        "aggregation": {"kind": "constant_length", "tokens": 512},
        "overlong": {"kind": "penalty", "buffer_tokens": 3, "weight": 0.5},
        "updates_per_batch": 3,
    }

    def contains(whole: Any, part: Any) -> bool:
        if isinstance(part, dict):
            return all(contains(whole[key], value) for key, value in part.items())
        return bool(whole == part)

    assert contains(read(values).model_dump(), values)


@pytest.mark.parametrize(
    "kind", [*ADVANTAGES.values(), *LOSSES.values(), *CORRECTIONS.values()], ids=str
)
def test_every_option_is_documented(kind: type[BaseModel]) -> None:
    assert kind.__doc__
    fields = kind.model_fields.items()
    assert [name for name, field in fields if not field.description and name != "kind"] == []


def test_entropy_controls_are_there_only_where_they_are_set() -> None:
    assert not read({}).needs_entropy
    assert read({"entropy_coef": -0.1}).needs_entropy
    assert read({"differential_entropy": {"incorrect": 0.2}}).needs_entropy


@pytest.mark.parametrize("kind", CORRECTIONS)
def test_log_linear_serves_every_correction(kind: str) -> None:
    config = read(
        {
            "loss": AGAINST_PROXIMAL,
            "correction": {"kind": kind},
            "proximal": {"kind": "log_linear", "current": 0.25},
            "updates_per_batch": 2,
        }
    )
    assert not config.needs_proximal


@pytest.mark.parametrize("kind", [kind for kind in CORRECTIONS if kind != "none"])
def test_no_correction_goes_with_a_ratio_against_the_behaviour_policy(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"algorithm\.loss\.ratio to proximal"):
        AlgorithmConfig.model_validate({"correction": {"kind": kind}})


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


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(case: str) -> None:
    values, reason = REFUSED[case]
    with pytest.raises(ValidationError, match=reason):
        AlgorithmConfig.model_validate(values)


def test_what_is_allowed_by_number() -> None:
    """Four losses against μ (reinforce has no ratio), of which dppo is against μ alone, without a
    correction; four against π_old or nothing, with each of them."""
    ratios = [None, "behaviour", "proximal"]
    allowed = 0
    for loss, ratio, correction in product(LOSSES, ratios, CORRECTIONS):
        has_ratio = "ratio" in LOSSES[loss].model_fields
        if has_ratio != (ratio is not None):
            continue
        chosen = {"kind": loss, **({"ratio": ratio} if has_ratio else {})}
        try:
            AlgorithmConfig.model_validate({"loss": chosen, "correction": {"kind": correction}})
        except ValidationError:
            continue
        allowed += 1
    assert allowed == 4 + 4 * len(CORRECTIONS)
