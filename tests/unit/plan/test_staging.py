"""What publishing a version takes: buckets of a GPU, and of training one copy of a rank's part."""

from typing import Any

import pytest

from asyncds.config.load import parse_config
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import find_gpu
from asyncds.plan.published import PUBLISHED
from asyncds.plan.publishing import Publishing, publishing
from asyncds.plan.staging import LANES, received
from asyncds.weights import nccl
from tests.support.paths import ROOT

H100 = find_gpu("h100-80")
MIB = 1 << 20
MODELS = ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-72B")


def found(model: str, ranks: int, *, zero_stage: int = 3, **weights: Any) -> Publishing:
    config = parse_config(
        {
            "model": model,
            "dtype": "bfloat16",
            "learner": {"ranks": ranks, "zero_stage": zero_stage},
            "weights": weights,
        }
    )
    return publishing(config, model_shape(PUBLISHED[model]), H100)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ranks", [1, 8, 32])
def test_a_gpu_holds_two_buckets_whatever_the_model(model: str, ranks: int) -> None:
    for zero_stage in (1, 3):
        assert found(model, ranks, zero_stage=zero_stage).sending == 2 * 64 * MIB
    assert found(model, ranks, transport="gloo").sending == 0
    assert found(model, ranks, bucket_mb=16).sending == 2 * 16 * MIB


def test_each_rank_of_a_machine_copies_its_part() -> None:
    one, eight, many = (found(MODELS[0], ranks, zero_stage=1) for ranks in (1, 8, 32))
    assert one.share == one.host == 8 * eight.share == 8 * many.share
    assert one.gathered == eight.gathered == many.gathered == 0
    assert one.stopped == pytest.approx(8 * eight.stopped)


def test_partitions_on_other_machines_are_gathered() -> None:
    assert found(MODELS[2], 8).gathered == found(MODELS[2], 8).gathering == 0
    many = found(MODELS[2], 32)
    assert many.gathered == many.host
    assert many.gathering == 2 * 152064 * 8192, "the embedding is the largest tensor"


def test_a_generator_on_a_gpu_holds_buckets_and_a_layer() -> None:
    shape = model_shape(PUBLISHED[MODELS[2]])
    one, eight = (
        sum(
            part.nbytes
            for part in received(
                parse_config({"model": MODELS[2], "generator": {"tensor_parallel": n}}), shape, H100
            )
        )
        for n in (1, 8)
    )
    assert eight < one < 0.05 * 2 * shape.parameters


def test_the_plan_has_as_many_buckets_as_the_sender() -> None:
    assert LANES == nccl.LANES


def rows() -> list[str]:
    """The table of docs/weights.md."""
    lines = []
    for model in MODELS:
        small, large = found(model, 8), found(model, 32)
        lines.append(
            f"| {model.rpartition('-')[2]} | {small.host / 1e9:.1f} | {small.sending / 1e9:.2f} "
            f"| {small.share / 1e9:.1f} | {small.stopped:.2f} "
            f"| {large.gathering / 1e9:.2f} | {large.stopped:.2f} |"
        )
    return lines


def test_the_sizes_in_the_documentation_are_these() -> None:
    text = (ROOT / "docs" / "weights.md").read_text()
    missing = [row for row in rows() if row not in text]
    assert not missing, "\n".join(["docs/weights.md lacks", *missing])
