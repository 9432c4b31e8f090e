"""Means over tokens that are spread over micro-batches and ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """Sums and counts by name, to be added first and divided last.

    table: float64 [K, 2], a row (sum, count) per name. Add over micro-batches with ``+``, over
    ranks by an all-reduce (sum) of ``table`` in place: the names are the same everywhere, since
    they depend only on which inputs an objective is given, and on the parts of the whole batch.
    """

    names: tuple[str, ...]
    table: Tensor

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> "Sums":
        """Sums of the elements themselves: each tensor of any shape gives its sum and its count."""
        total = torch.stack([x.detach().double().sum() for x in values.values()])
        count = total.new_tensor([x.numel() for x in values.values()])
        return cls(tuple(values), torch.stack((total, count), dim=1))

    @classmethod
    def joined(cls, parts: Sequence["Sums"]) -> "Sums":
        """One table of sums that have different names."""
        names = tuple(name for part in parts for name in part.names)
        return cls(names, torch.cat([part.table for part in parts]))

    def __add__(self, other: "Sums") -> "Sums":
        if self.names != other.names:
            raise ValueError(f"sums of different things: {self.names} and {other.names}")
        return Sums(self.names, self.table + other.table)

    def means(self) -> dict[str, float]:
        """Sum / count by name; 0.0 for a mean over nothing, so that every series has a number."""
        total, count = self.table.unbind(dim=1)
        return dict(zip(self.names, (total / count.clamp(min=1)).tolist(), strict=True))
