"""One training batch as a learner rank sees it: its own sequences, and a table of all of them.

The table travels to every rank, so that group statistics, the number of tokens the loss is divided
by and the number of micro-batches are computed from the same numbers everywhere, with no
communication between ranks.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from asyncds.protocol.spans import NONE

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SequenceTable:
    """Facts of all N sequences of a batch, which every rank knows. All arrays have shape [N].

    group: which group the sequence belongs to, 0 … n_groups-1, in batch order; all of a group have
    the same prompt.
    reward: the scorer's reward. correct: the verifier's verdict (not ``reward > 0``).
    prompt_length, length: tokens of the prompt and of the completion. sampled: those of the
    completion that were sampled; an environment gave the others, and nothing is trained on them.
    logprob_sum: Σ_t log μ over the sampled tokens (μ the behaviour policy), in nats.
    rank: the learner rank that owns the sequence.
    finished: the completion ended by itself; otherwise it was cut off.
    generator: who sampled it, an index into `Shard.generators`.
    """

    group: Int32
    reward: Float32
    correct: Bool
    prompt_length: Int32
    length: Int32
    sampled: Int32
    logprob_sum: Float32
    rank: Int32
    finished: Bool
    generator: Int32

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part of batch ``step`` that learner rank ``rank`` trains on.

    leases: that of each group. table: all N sequences of the batch. generators: names of those who
    sampled the batch, at least one, each once. sequences [n]: the rows of the table that are this
    rank's, ascending; the flat arrays below hold those sequences one after another.
    prompt_ids [Σ prompt_length], completion_ids [Σ length]: token ids, int32.
    given [k, 2]: spans of completion_ids that were not sampled, (start, count), int32.
    logprobs [Σ sampled]: log μ of each sampled token (temperature applied), float32, ≤ 0.
    versions [Σ sampled]: the weights' version that sampled each of them, int32.
    """

    step: int
    rank: int
    leases: list[int]
    table: SequenceTable
    generators: list[str]
    sequences: Int32
    prompt_ids: Int32
    completion_ids: Int32
    logprobs: Float32
    versions: Int32
    given: Int32 = field(default_factory=NONE.copy)
