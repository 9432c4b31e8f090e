"""Spans of given tokens: the parts of completions that were not sampled.

Most rollouts have none. Those of an environment have one for everything that it said: what the
policy reads and is not trained on.
"""

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

NONE: Int32 = np.empty((0, 2), dtype=np.int32)
"""The spans of completions that were sampled throughout."""


def sampled_mask(given: Int32, tokens: int) -> Bool:
    """Mask of the sampled ones of so many tokens: given int32 [k, 2] (start, count) -> bool."""
    sampled = np.ones(tokens, dtype=np.bool_)
    for start, count in given.tolist():
        sampled[start : start + count] = False
    return sampled


def given_spans(sampled: Bool) -> Int32:
    """The spans of the tokens that were not sampled: bool [tokens] -> int32 [k, 2]."""
    edges = np.flatnonzero(np.diff(sampled, prepend=True, append=True)).astype(np.int32)
    starts, ends = edges[::2], edges[1::2]
    return np.stack([starts, ends - starts], axis=1)


def sampled_lengths(given: Int32, lengths: Int32) -> Int32:
    """Number of sampled tokens of each completion: lengths int32 [n] of all -> int32 [n]."""
    if not len(given):
        return lengths
    upto = np.concatenate([[0], np.cumsum(sampled_mask(given, int(lengths.sum())))])
    ends = np.cumsum(lengths)
    return (upto[ends] - upto[ends - lengths]).astype(np.int32)
