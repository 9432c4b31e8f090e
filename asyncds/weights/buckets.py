"""The places of a version's tensors in one flat region, which travels in buckets.

Sender and receivers compute the same placement from the same list, so only bytes travel::

    tensors  embed [4, 2] f32   norm [3] bf16   head [4, 2] f32      bucket_bytes = 32
    region   |embed 32 bytes|norm 6 bytes, padding 10|head 32 bytes|
    buckets  |0             |1                       :             |2              |

Buckets know nothing of tensors: a tensor may begin in one and end in another, so that none is
larger than ``bucket_bytes``, however large a tensor is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch

ALIGNMENT = 16
"""Every tensor, and every bucket, begins at a multiple of this many bytes."""


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
class Placement:
    """Where each tensor lies, by its offset in a region of ``nbytes`` bytes, and how it is cut."""

    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    nbytes: int
    bucket_bytes: int

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], *, bucket_bytes: int) -> "Placement":
        """Lay tensors one after another, in their order. Raises ValueError for a bad size."""
        if bucket_bytes < ALIGNMENT or bucket_bytes % ALIGNMENT:
            raise ValueError(
                f"a bucket has a multiple of {ALIGNMENT} bytes, at least one, not {bucket_bytes}"
            )
        specs = tuple(specs)
        *offsets, nbytes = accumulate((_aligned(spec.nbytes) for spec in specs), initial=0)
        return cls(specs, tuple(offsets), nbytes, bucket_bytes)

    def buckets(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of the region ``flat``, uint8 [nbytes]: its buckets, in the order they travel."""
        return list(flat.split(self.bucket_bytes)) if self.nbytes else []

    def tensors(self, flat: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """The tensors as views of the region ``flat``, uint8 [nbytes], with their names."""
        return [(spec.name, self._view(i, flat)) for i, spec in enumerate(self.specs)]

    def put(self, index: int, start: int, values: torch.Tensor, flat: torch.Tensor) -> None:
        """Copy ``values`` [n] into the ``index``-th tensor of the region ``flat``.

        They begin at its ``start``-th element in row-major order. A copy from a GPU is not waited
        for. Raises ValueError where it has another dtype or fewer elements.
        """
        spec = self.specs[index]
        whole = self._view(index, flat).view(-1)
        if values.dtype != whole.dtype or start + values.numel() > whole.numel():
            raise ValueError(
                f"{spec.name}: planned {spec.dtype} {spec.shape}, got {values.numel()} elements of "
                f"{str(values.dtype).removeprefix('torch.')} from the {start}th on"
            )
        whole[start : start + values.numel()].copy_(values, non_blocking=True)

    def _view(self, index: int, flat: torch.Tensor) -> torch.Tensor:
        spec, offset = self.specs[index], self.offsets[index]
        return flat[offset : offset + spec.nbytes].view(spec.torch_dtype).view(spec.shape)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
