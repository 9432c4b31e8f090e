"""Buckets: every tensor once, in order, bounded, aligned; packing and unpacking are inverse."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.weights.buckets import ALIGNMENT, TensorSpec, pack, plan_buckets, unpack
from asyncds.weights.checksum import checksum

DTYPES = ["float32", "bfloat16", "float16", "int64", "uint8", "bool"]
shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
spec_lists = st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=20).map(
    lambda items: [TensorSpec(f"w{i}", dtype, shape) for i, (dtype, shape) in enumerate(items)]
)
bounds = st.integers(ALIGNMENT, 2048)


def random_tensor(spec: TensorSpec, seed: int) -> torch.Tensor:
    """Random values of any dtype, as dtype [*shape]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, spec.shape, generator=generator).to(spec.torch_dtype)


@given(spec_lists, bounds)
def test_plan_keeps_order_and_bound(specs: list[TensorSpec], max_bytes: int) -> None:
    buckets = plan_buckets(specs, max_bytes=max_bytes)
    assert [spec for bucket in buckets for spec in bucket.specs] == specs
    for bucket in buckets:
        assert bucket.nbytes % ALIGNMENT == 0
        assert bucket.nbytes <= max_bytes or len(bucket.specs) == 1
        ends = [o + s.nbytes for o, s in zip(bucket.offsets, bucket.specs, strict=True)]
        assert all(offset % ALIGNMENT == 0 for offset in bucket.offsets)
        starts = [*bucket.offsets[1:], bucket.nbytes]
        assert all(end <= start < end + ALIGNMENT for end, start in zip(ends, starts, strict=True))


@given(spec_lists, bounds)
def test_no_bucket_could_hold_the_next_tensor(specs: list[TensorSpec], max_bytes: int) -> None:
    buckets = plan_buckets(specs, max_bytes=max_bytes)
    for bucket, following in pairwise(buckets):
        padded = -(-following.specs[0].nbytes // ALIGNMENT) * ALIGNMENT
        assert bucket.nbytes + padded > max_bytes


@given(spec_lists, bounds, st.integers(0, 2**31))
def test_unpack_inverts_pack(specs: list[TensorSpec], max_bytes: int, seed: int) -> None:
    for bucket in plan_buckets(specs, max_bytes=max_bytes):
        flat = bucket.empty("cpu")
        tensors = [random_tensor(spec, seed + i) for i, spec in enumerate(bucket.specs)]
        for index, tensor in enumerate(tensors):
            pack(bucket, index, tensor, flat)
        for (name, got), spec, tensor in zip(
            unpack(bucket, flat), bucket.specs, tensors, strict=True
        ):
            assert name == spec.name
            assert got.dtype == spec.torch_dtype
            assert torch.equal(got, tensor)


def test_pack_copies_a_transposed_tensor_by_value() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    [bucket] = plan_buckets([TensorSpec.of("w", tensor)], max_bytes=64)
    flat = bucket.empty("cpu")
    pack(bucket, 0, tensor, flat)
    assert torch.equal(unpack(bucket, flat)[0][1], tensor)


@pytest.mark.parametrize("tensor", [torch.zeros(2, 2), torch.zeros(4, dtype=torch.bfloat16)])
def test_pack_refuses_another_shape_or_dtype(tensor: torch.Tensor) -> None:
    [bucket] = plan_buckets([TensorSpec("w", "float32", (4,))], max_bytes=64)
    with pytest.raises(ValueError, match="planned float32"):
        pack(bucket, 0, tensor, bucket.empty("cpu"))


def test_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="'Tensor' is not the name of a torch dtype"):
        plan_buckets([TensorSpec("w", "Tensor", (1,))], max_bytes=64)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=64), st.data())
def test_checksum_sees_every_changed_byte(values: list[int], data: st.DataObject) -> None:
    flat = torch.tensor(values * 8, dtype=torch.uint8)
    changed = flat.clone()
    changed[data.draw(st.integers(0, len(flat) - 1))] += data.draw(st.integers(1, 255))
    assert checksum(flat) != checksum(changed)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=32))
def test_checksum_wraps_modulo_two_to_the_64(words: list[int]) -> None:
    flat = torch.tensor(words, dtype=torch.int64).view(torch.uint8)
    assert int(checksum(flat)) % 2**64 == sum(words) % 2**64
