"""Schedules: what is in force at a step, and how they are refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.choices.choice import Choice
from asyncds.choices.schedule import Coefficient, Schedule, at, scheduled
from asyncds.config.load import ConfigError, dump_config, load_config

FALLING = {"start": 1.0, "end": 0.2, "steps": 4}
SAMPLED = "rollout.dynamic_sampling={enabled: true}"


def both(gamma_p: str) -> str:
    """An override with a γ_n besides."""
    return f"algorithm.advantage={{kind: ds_grpo, gamma_p: {gamma_p}, gamma_n: 0.1}}"


def gammas(algorithm: AlgorithmConfig) -> tuple[float, float]:
    assert isinstance(algorithm.advantage, DsGrpo)
    return algorithm.advantage.gamma_p, algorithm.advantage.gamma_n


def test_linear_goes_evenly_and_stays_at_its_end() -> None:
    values = [Schedule(**FALLING).at(step) for step in range(7)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_cosine_is_slow_at_both_ends() -> None:
    values = [Schedule(start=0, end=1, steps=4, shape="cosine").at(step) for step in range(6)]
    quarter = (1 - math.sqrt(0.5)) / 2
    assert values == pytest.approx([0, quarter, 0.5, 1 - quarter, 1, 1])


def test_it_waits_and_may_jump() -> None:
    jump = Schedule(start=0.3, end=0, steps=1, after=2)
    assert [jump.at(step) for step in range(5)] == [0.3, 0.3, 0.3, 0, 0]


@given(
    start=st.floats(-10, 10),
    end=st.floats(-10, 10),
    steps=st.integers(1, 50),
    after=st.integers(0, 20),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_it_goes_from_start_to_end_and_never_back(
    start: float, end: float, steps: int, after: int, shape: Any
) -> None:
    schedule = Schedule(start=start, end=end, steps=steps, after=after, shape=shape)
    values = [schedule.at(step) for step in range(after + steps + 3)]
    assert values[: after + 1] == [start] * (after + 1)
    assert values[after + steps :] == [end] * 3
    sign = 1 if end >= start else -1
    assert all(sign * (b - a) >= -1e-12 for a, b in itertools.pairwise(values))


def test_an_algorithm_at_a_step_has_numbers_only() -> None:
    algorithm = AlgorithmConfig.model_validate(
        {
            "advantage": {"kind": "ds_grpo", "gamma_p": FALLING, "gamma_n": 0.5},
            "kl": {"coef": {"start": 0, "end": 0.1, "steps": 2}},
            "entropy_coef": {"start": -0.1, "end": 0.1, "steps": 2},
            "differential_entropy": {"correct": {"start": 0.4, "end": 0, "steps": 2}},
        }
    )
    assert scheduled(algorithm, 1) == {
        "advantage.gamma_p": pytest.approx(0.8),
        "kl.coef": pytest.approx(0.05),
        "entropy_coef": pytest.approx(0),
        "differential_entropy.correct": pytest.approx(0.2),
    }
    now = algorithm.at(1)
    assert gammas(now) == (pytest.approx(0.8), 0.5)
    assert (now.kl.coef, now.entropy_coef) == (pytest.approx(0.05), pytest.approx(0))
    assert now.differential_entropy.correct == pytest.approx(0.2)
    assert not scheduled(now, 0)
    assert now.at(3) == now


def test_what_a_coefficient_needs_is_told_for_the_run_and_for_a_step() -> None:
    algorithm = AlgorithmConfig.model_validate(
        {
            "kl": {"coef": {"start": 0, "end": 0.1, "steps": 1}},
            "entropy_coef": {"start": 0.1, "end": 0, "steps": 1},
        }
    )
    assert algorithm.needs_reference
    assert algorithm.needs_entropy
    assert not algorithm.at(0).needs_reference
    assert algorithm.at(0).needs_entropy
    assert algorithm.at(1).needs_reference
    assert not algorithm.at(1).needs_entropy
    nothing = AlgorithmConfig.model_validate({"kl": {"coef": {"start": 0, "end": 0, "steps": 1}}})
    assert not nothing.needs_reference


def test_numbers_stay_what_they_were() -> None:
    algorithm = AlgorithmConfig.model_validate(
        {"advantage": {"kind": "ds_grpo", "gamma_p": 1, "gamma_n": "0.5"}, "kl": {"coef": 0.1}}
    )
    assert gammas(algorithm) == (1.0, 0.5)
    assert algorithm.kl.coef == 0.1
    assert algorithm.at(7) is algorithm


def test_options_of_ones_own_may_have_schedules() -> None:
    class Own(Choice):
        strength: Coefficient = 1.0

    own = Own.model_validate({"strength": {"start": 1, "end": 3, "steps": 2}})
    assert at(own, 1).strength == 2
    assert Own().strength == 1


def test_a_file_with_a_schedule_is_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nalgorithm: {kl: {coef: {start: 1e-2, end: 1e-3, steps: 10}}}\n")
    config = load_config(file, [both("{start: 1, end: 0, steps: 5}")])
    assert config.algorithm.at(0).kl.coef == 0.01
    assert gammas(config.algorithm.at(5))[0] == 0
    file.write_text(dump_config(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "algorithm.advantage.gamma_p={start: -1, end: 0, steps: 9}",
            "algorithm.advantage.gamma_p: start and end must be greater than or equal to 0",
        ),
        ("algorithm.kl.coef={start: 1, steps: 9}", "algorithm.kl.coef.end is missing"),
        (
            "algorithm.kl.coef={start: 1, end: 0, steps: 0}",
            "algorithm.kl.coef.steps: Input should be greater than or equal to 1",
        ),
        (
            "algorithm.entropy_coef={start: 1, end: 0, steps: 9, shape: square}",
            "algorithm.entropy_coef.shape: Input should be 'linear' or 'cosine'",
        ),
        (
            "algorithm.entropy_coef={start: 1, end: 0, step: 9}",
            "unknown key algorithm.entropy_coef.step: did you mean algorithm.entropy_coef.steps?",
        ),
        ("algorithm.entropy_coef=much", "algorithm.entropy_coef: Input should be a valid number"),
        ("algorithm.kl.coef=-1", "algorithm.kl.coef: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_no_schedule_is_refused_in_a_sentence(
    tmp_path: Path, override: str, sentence: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nalgorithm: {advantage: {kind: ds_grpo}}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(file, [override])
    assert sentence in str(refused.value)


def test_dynamic_sampling_needs_one_step_at_which_a_group_teaches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nsteps: 10\n")
    load_config(file, [SAMPLED, both("{start: 1, end: 0, steps: 9}")])
    load_config(file, [SAMPLED, both("{start: 0, end: 1, steps: 9}")])
    with pytest.raises(ConfigError, match="dynamic sampling would never drop one"):
        load_config(file, [SAMPLED, both("{start: 1, end: 0, steps: 10}")])
