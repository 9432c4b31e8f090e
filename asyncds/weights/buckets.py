"""Flat, bounded byte buckets over an ordered list of tensors.

Sender and receivers compute the same plan from the same list, so only bytes travel::

    specs    embed [4, 2] f32   norm [3] bf16   head [4, 2] f32      max_bytes = 64
    bucket 0 |embed 32 bytes|norm 6 bytes, padding 10|               48 bytes
    bucket 1 |head 32 bytes|                                         32 bytes
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch

ALIGNMENT = 16
"""Every tensor begins, and every bucket ends, at a multiple of this many bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the transfer: Hugging Face name, torch dtype name (``"bfloat16"``), shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{self.name}: {self.dtype!r} is not the name of a torch dtype")
        return dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.torch_dtype.itemsize

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> "TensorSpec":
        return cls(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


@dataclass(frozen=True)
class Bucket:
    """Consecutive tensors, each at its byte offset in one flat buffer of ``nbytes`` bytes."""

    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    nbytes: int

    def empty(self, device: torch.device | str) -> torch.Tensor:
        """A zeroed flat buffer for this bucket, uint8 [nbytes]; padding stays zero for ever."""
        return torch.zeros(self.nbytes, dtype=torch.uint8, device=device)


def plan_buckets(specs: Iterable[TensorSpec], *, max_bytes: int) -> tuple[Bucket, ...]:
    """Split ``specs``, in their order, into buckets of at most ``max_bytes`` bytes.

    A tensor that is larger than the bound has a bucket to itself: it exists in one piece on both
    sides anyway, so that splitting it would bound nothing.
    """
    if max_bytes < ALIGNMENT:
        raise ValueError(f"a bucket needs at least {ALIGNMENT} bytes, not {max_bytes}")
    buckets: list[Bucket] = []
    members: list[TensorSpec] = []
    offsets: list[int] = []
    end = 0
    for spec in specs:
        size = _aligned(spec.nbytes)
        if members and end + size > max_bytes:
            buckets.append(Bucket(tuple(members), tuple(offsets), end))
            members, offsets, end = [], [], 0
        members.append(spec)
        offsets.append(end)
        end += size
    if members:
        buckets.append(Bucket(tuple(members), tuple(offsets), end))
    return tuple(buckets)


def pack(bucket: Bucket, index: int, tensor: torch.Tensor, flat: torch.Tensor) -> None:
    """Copy ``tensor`` into its place, the ``index``-th of ``bucket``, in the buffer ``flat``.

    Raises ValueError where dtype or shape are not those of the plan.
    """
    spec = bucket.specs[index]
    found = TensorSpec.of(spec.name, tensor)
    if found != spec:
        raise ValueError(f"{spec.name}: planned {spec.dtype} {spec.shape}, got {found}")
    _view(spec, bucket.offsets[index], flat).copy_(tensor.detach())


def unpack(bucket: Bucket, flat: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The tensors of ``bucket`` as views of its buffer ``flat`` (no copy)."""
    return [
        (spec.name, _view(spec, offset, flat))
        for spec, offset in zip(bucket.specs, bucket.offsets, strict=True)
    ]


def _view(spec: TensorSpec, offset: int, flat: torch.Tensor) -> torch.Tensor:
    return flat[offset : offset + spec.nbytes].view(spec.torch_dtype).view(spec.shape)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
