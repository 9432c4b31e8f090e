"""Places: every tensor once, in order, aligned; buckets are its bytes; what is put in comes out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.weights.buckets import ALIGNMENT, Placement, TensorSpec
from asyncds.weights.checksum import checksum

DTYPES = ["float32", "bfloat16", "float16", "int64", "uint8", "bool"]
shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
spec_lists = st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=20).map(
    lambda items: [TensorSpec(f"w{i}", dtype, shape) for i, (dtype, shape) in enumerate(items)]
)
sizes = st.integers(1, 128).map(lambda n: n * ALIGNMENT)


def region(placement: Placement) -> torch.Tensor:
    return torch.zeros(placement.nbytes, dtype=torch.uint8)


def random_tensor(spec: TensorSpec, seed: int) -> torch.Tensor:
    """Random values of any dtype, as dtype [*shape]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, spec.shape, generator=generator).to(spec.torch_dtype)


@given(spec_lists, sizes)
def test_tensors_lie_in_order_without_overlap(specs: list[TensorSpec], bucket_bytes: int) -> None:
    placement = Placement.of(specs, bucket_bytes=bucket_bytes)
    assert list(placement.specs) == specs
    ends = [o + s.nbytes for o, s in zip(placement.offsets, specs, strict=True)]
    assert all(offset % ALIGNMENT == 0 for offset in placement.offsets)
    starts = [*placement.offsets[1:], placement.nbytes]
    assert all(end <= start < end + ALIGNMENT for end, start in zip(ends, starts, strict=False))


@given(spec_lists, sizes)
def test_buckets_are_the_region_and_bounded(specs: list[TensorSpec], bucket_bytes: int) -> None:
    placement = Placement.of(specs, bucket_bytes=bucket_bytes)
    flat = region(placement)
    buckets = placement.buckets(flat)
    assert [len(b) for b in buckets[:-1]] == [bucket_bytes] * (len(buckets) - 1)
    assert all(0 < len(b) <= bucket_bytes and len(b) % ALIGNMENT == 0 for b in buckets)
    for bucket in buckets:
        bucket.fill_(1)
    assert int(flat.sum()) == placement.nbytes == sum(map(len, buckets))


@given(spec_lists, sizes, st.integers(0, 2**31))
def test_what_is_put_in_comes_out(specs: list[TensorSpec], bucket_bytes: int, seed: int) -> None:
    placement = Placement.of(specs, bucket_bytes=bucket_bytes)
    flat = region(placement)
    tensors = [random_tensor(spec, seed + i) for i, spec in enumerate(specs)]
    for index, tensor in enumerate(tensors):
        cut = tensor.numel() // 3
        placement.put(index, cut, tensor.view(-1)[cut:], flat)
        placement.put(index, 0, tensor.view(-1)[:cut], flat)
    for (name, got), spec, tensor in zip(placement.tensors(flat), specs, tensors, strict=True):
        assert name == spec.name
        assert got.dtype == spec.torch_dtype
        assert torch.equal(got, tensor)


@pytest.mark.parametrize(
    ("start", "values"), [(0, torch.zeros(5)), (3, torch.zeros(2)), (0, torch.zeros(4).bfloat16())]
)
def test_more_elements_or_another_dtype_are_refused(start: int, values: torch.Tensor) -> None:
    placement = Placement.of([TensorSpec("w", "float32", (2, 2))], bucket_bytes=64)
    with pytest.raises(ValueError, match="planned float32"):
        placement.put(0, start, values, region(placement))


def test_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="'Tensor' is not the name of a torch dtype"):
        Placement.of([TensorSpec("w", "Tensor", (1,))], bucket_bytes=64)


@pytest.mark.parametrize("bucket_bytes", [0, 8, 24])
def test_a_bucket_of_odd_size_is_refused(bucket_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"not {bucket_bytes}"):
        Placement.of([], bucket_bytes=bucket_bytes)


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
