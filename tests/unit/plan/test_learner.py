"""The memory of a learner rank: what is added up, and the head's share against a measurement."""

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from asyncds.config.load import parse_config
from asyncds.engine.policy_model import ChunkedHead, HeadRule
from asyncds.plan.activations import head_scratch
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import find_gpu, main_memory
from asyncds.plan.learner import _Zero, learner_memory
from asyncds.plan.load import load_of
from asyncds.plan.parts import total
from asyncds.plan.published import PUBLISHED

SHAPE = model_shape(PUBLISHED["Qwen/Qwen2.5-Math-7B"])
P = SHAPE.parameters


def parts(dtype: str = "bfloat16", **learner: object) -> dict[str, float]:
    config = parse_config(
        {
            "model": "Qwen/Qwen2.5-Math-7B",
            "dtype": dtype,
            "sampling": {"max_tokens": 2048},
            "generator": {"max_model_len": 3072},
            "learner": learner,
        }
    )
    found = learner_memory(config, SHAPE, load_of(config, SHAPE), find_gpu("h200-141"), sends=False)
    return {part.name: part.nbytes for part in found}


def static(found: dict[str, float]) -> float:
    """Bytes a parameter of what is there all the time."""
    names = ("weights", "float32 weights", "AdamW's moments", "gradients")
    return sum(found.get(name, 0.0) for name in names) / P


@pytest.mark.parametrize(
    ("stage", "ranks", "expected"),
    [(1, 1, 18), (1, 4, 2 + 4 + 3), (2, 4, 2 + 4), (3, 4, 4.5), (3, 2, 9)],
)
def test_stages_shard_one_thing_more_each(stage: int, ranks: int, expected: float) -> None:
    assert static(parts(zero_stage=stage, ranks=ranks)) == pytest.approx(expected)


def test_float32_has_a_second_copy_under_zero_only() -> None:
    assert static(parts("float32", zero_stage=0)) == pytest.approx(16)
    assert static(parts("float32", zero_stage=1)) == pytest.approx(20)


def test_recomputed_activations_are_a_fraction() -> None:
    kept = parts(zero_stage=3, gradient_checkpointing=False)["activations"]
    recomputed = parts(zero_stage=3, gradient_checkpointing=True)["activations"]
    assert recomputed == 28 * 3584 * 2 * 16_384
    assert 30 * recomputed < kept < 35 * recomputed


def test_auto_recomputes_from_a_billion_parameters() -> None:
    assert parts(zero_stage=3) == parts(zero_stage=3, gradient_checkpointing=True)
    config = parse_config({"model": "m"}).learner
    assert not config.checkpoints_activations(999_999_999)
    assert config.checkpoints_activations(1_000_000_000)


def test_the_smallest_pass_holds_one_longest_sequence() -> None:
    small = parts(zero_stage=3, micro_batch_tokens=1)["activations"]
    assert small == 28 * 3584 * 2 * 3072


def test_deepspeed_defaults_are_those_of_deepspeed() -> None:
    theirs, ours = DeepSpeedZeroConfig(), _Zero(parse_config({"model": "m"}))
    assert ours.bucket == theirs.reduce_bucket_size
    assert ours.gathered == theirs.max_live_parameters + theirs.prefetch_bucket_size
    assert ours.sub_group == theirs.sub_group_size


def test_settings_of_deepspeed_count() -> None:
    given = {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert parts(zero_stage=2, deepspeed=given)["bucket of gradients"] == 4000


def test_main_memory_has_no_context() -> None:
    config = parse_config({"model": "m", "dtype": "float32"})
    found = learner_memory(config, SHAPE, load_of(config, SHAPE), main_memory(1 << 34))
    assert "CUDA, cuBLAS, NCCL" not in {part.name for part in found}
    assert total(found) > 16 * P


class Allocated(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._made[tensor] = None
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in self._made}
        self.peak = max(self.peak, sum(storages.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_heads_share_is_what_is_measured(dtype: torch.dtype) -> None:
    """ChunkedHead's real backward pass, every tensor counted."""
    vocabulary, width, rows = 3000, 64, 256
    projection = torch.nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    head = ChunkedHead(projection=projection, rule=HeadRule(), chunk_tokens=rows)
    hidden = torch.randn(2 * rows, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (2 * rows,))
    scores = head(hidden, targets, temperature=1.0, with_entropy=True)
    loss = scores.log_probs.sum() + 0 * scores.entropy.sum()
    with Allocated() as allocated:
        loss.backward()
    fields = {**PUBLISHED["Qwen/Qwen2.5-7B"], "vocab_size": vocabulary, "hidden_size": width}
    expected = head_scratch(model_shape(fields), rows=rows, itemsize=dtype.itemsize)
    assert allocated.peak == pytest.approx(expected, rel=0.1)
