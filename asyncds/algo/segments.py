"""Sums and means in parts of a flat array: over the tokens of a sequence. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sum of ``values`` in each of ``n`` segments: [T], int [T] in 0..n-1 -> [n]."""
    return values.new_zeros(n).index_add_(0, segment, values)


def segment_mean(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Mean of ``values`` in each of ``n`` segments, 0 for an empty one: [T], int [T] -> [n]."""
    count = segment.bincount(minlength=n).clamp(min=1)
    return segment_sum(values, segment, n) / count


def sum_over_segment(values: Tensor, segment: Tensor) -> Tensor:
    """The sum over its segment for each value: [T], int64 [T] ≥ 0 -> [T]."""
    return segment_sum(values, segment, _count(segment))[segment]


def mean_over_segment(values: Tensor, segment: Tensor) -> Tensor:
    """The mean over its segment for each value: [T], int64 [T] ≥ 0 -> [T]."""
    return segment_mean(values, segment, _count(segment))[segment]


def _count(segment: Tensor) -> int:
    return int(segment.max()) + 1 if len(segment) else 0
