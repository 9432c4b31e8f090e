"""The probe: a fixed token sequence whose log-probabilities both engines must agree on.

Checksums say that the bytes arrived. The probe says that the engine computes with them.
"""

import numpy as np
import numpy.typing as npt

PROBE_TOKENS = 32


def probe_tokens(*, vocab_size: int, max_length: int | None) -> npt.NDArray[np.int32]:
    """Draw the probe's tokens, int32 [≤ 32]: the same for the same vocabulary and length limit.

    max_length: tokens an engine takes at most, of which one is left for its answer.
    """
    length = PROBE_TOKENS if max_length is None else min(PROBE_TOKENS, max_length - 1)
    return np.random.default_rng(0).integers(0, vocab_size, size=length, dtype=np.int32)
