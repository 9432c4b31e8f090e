"""Sums, means and ranks in parts of a flat array: tokens of a sequence, sequences of a group."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sum of ``values`` in each of ``n`` segments: [T], int [T] in 0..n-1 -> [n]."""
    return values.new_zeros(n).index_add_(0, segment, values)


def segment_mean(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Mean of ``values`` in each of ``n`` segments, 0 for an empty one: [T], int [T] -> [n]."""
    count = torch.bincount(segment, minlength=n).clamp(min=1)
    return segment_sum(values, segment, n) / count


def rank_within(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """How many values of its own segment each value exceeds: [T], int64 [T] in 0..n-1 -> float64.

    Equal values get the mean of the ranks that they fill together.
    """
    levels, level = torch.unique(values, return_inverse=True)
    _, tie, size = torch.unique(
        segment * len(levels) + level, return_inverse=True, return_counts=True
    )
    lower = size.cumsum(0) - size
    count = torch.bincount(segment, minlength=n)
    before = (count.cumsum(0) - count)[segment]
    return (lower[tie] - before).double() + (size[tie] - 1) / 2


def sum_over_segment(values: Tensor, segment: Tensor) -> Tensor:
    """For each value the sum over its segment: [T], int64 [T] ≥ 0 -> [T]."""
    return segment_sum(values, segment, _count(segment))[segment]


def mean_over_segment(values: Tensor, segment: Tensor) -> Tensor:
    """For each value the mean over its segment: [T], int64 [T] ≥ 0 -> [T]."""
    return segment_mean(values, segment, _count(segment))[segment]


def _count(segment: Tensor) -> int:
    return int(segment.max()) + 1 if len(segment) else 0
