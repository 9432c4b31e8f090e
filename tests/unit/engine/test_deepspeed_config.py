from typing import Any

import pytest

from asyncds.config.engines import LearnerConfig
from asyncds.config.passed_on import DEEPSPEED
from asyncds.engine.deepspeed_config import deepspeed_config, lr_factor


def test_extra_is_merged_key_by_key_and_wins() -> None:
    extra = {
        "zero_optimization": {"offload_optimizer": {"device": "cpu"}},
        "steps_per_print": 5,
    }
    config = deepspeed_config(LearnerConfig(zero_stage=3, deepspeed=extra), dtype="float32")
    assert config["zero_optimization"] == {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    assert config["steps_per_print"] == 5


def test_what_the_program_sets_can_not_be_set_besides() -> None:
    """The table of refused keys has every key that is set here, whatever the settings."""

    def keys(values: Any, table: Any, path: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            if isinstance(table.get(key), dict):
                found += keys(value, table[key], f"{path}{key}.")
            elif key not in table:
                found.append(path + key)
        return found

    for stage in (0, 1, 2, 3):
        for dtype in ("float32", "bfloat16"):
            config = deepspeed_config(LearnerConfig(zero_stage=stage), dtype=dtype)
            assert keys(config, DEEPSPEED) == []


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_lr_rises_then_follows_the_schedule(schedule: Any, expected: list[float]) -> None:
    steps = [0, 1, 2, 3, 4, 8, 100]
    settings = LearnerConfig(lr_schedule=schedule, warmup_steps=4)
    factors = [lr_factor(s, settings=settings, total_steps=12) for s in steps]
    assert factors == pytest.approx(expected)
