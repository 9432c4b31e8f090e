"""A checksum of raw bits, cheap enough for every bucket of every transfer."""

import torch


def checksum(flat: torch.Tensor) -> torch.Tensor:
    """Sum the bytes of ``flat``, read as int64 words, with wrap-around: an int64 scalar tensor.

    ``flat`` is uint8 [nbytes], nbytes a multiple of 8. The sum is computed where the bytes lie and
    reads them once; modulo 2**64 its order doesn't matter, so that every device finds the same
    number. Any change of a single word is seen; an exchange of two words is not, which is what the
    probe (log-probabilities of a fixed sequence on both sides) is for.
    """
    return flat.view(torch.int64).sum()
