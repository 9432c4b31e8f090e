"""Sums and means over the parts of a flat array: tokens of a sequence, sequences of a group."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sum of ``values`` in each of ``n`` segments: [T], int [T] in 0..n-1 -> [n]."""
    return values.new_zeros(n).index_add_(0, segment, values)


def segment_mean(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Mean of ``values`` in each of ``n`` segments, 0 for an empty one: [T], int [T] -> [n]."""
    count = torch.bincount(segment, minlength=n).clamp(min=1)
    return segment_sum(values, segment, n) / count
