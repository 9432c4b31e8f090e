import pytest

from asyncds.engine.deepspeed_config import Schedule, deepspeed_config, lr_factor


def test_extra_is_merged_key_by_key_and_wins() -> None:
    config = deepspeed_config(
        zero_stage=3,
        dtype="float32",
        max_grad_norm=1.0,
        extra={
            "zero_optimization": {"offload_optimizer": {"device": "cpu"}},
            "gradient_clipping": 2.0,
        },
    )
    assert config["zero_optimization"] == {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    assert config["gradient_clipping"] == 2.0


def test_bfloat16_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="choose zero_stage 1"):
        deepspeed_config(zero_stage=0, dtype="bfloat16", max_grad_norm=1.0, extra={})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_lr_rises_then_follows_the_schedule(schedule: Schedule, expected: list[float]) -> None:
    steps = [0, 1, 2, 3, 4, 8, 100]
    factors = [lr_factor(s, schedule=schedule, warmup_steps=4, total_steps=12) for s in steps]
    assert factors == pytest.approx(expected)
