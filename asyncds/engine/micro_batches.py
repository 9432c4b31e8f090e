"""The plan of updates and micro-batches: the sequences that a rank computes together.

Everything is a function of the sequence table that all ranks hold, so that ranks agree on the
number of micro-batches (and so on the collectives that go with them) without talking to each other.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asyncds.protocol.batch import Int32, SequenceTable, Shard
from asyncds.protocol.spans import sampled_mask

Int64 = npt.NDArray[np.int64]


def input_lengths(table: SequenceTable) -> Int32:
    """Tokens the model reads for each sequence [N]: all but the last, which predicts nothing."""
    return table.prompt_length + table.length - 1


def plan_updates(table: SequenceTable, *, minibatches: int) -> list[Int32]:
    """Split a batch into optimizer updates; a group's sequences stay together.

    Returns the table rows of each update, ascending. Groups keep their order; updates differ by at
    most one group. Raises ValueError where there are fewer groups than updates.
    """
    groups = np.unique(table.group)
    if not 1 <= minibatches <= len(groups):
        raise ValueError(f"{len(groups)} groups cannot be split into {minibatches} updates")
    return [
        np.flatnonzero(np.isin(table.group, part)).astype(np.int32)
        for part in np.array_split(groups, minibatches)
    ]


def plan_micro_batches(
    table: SequenceTable, rows: Int32, *, ranks: int, token_budget: int
) -> list[list[Int32]]:
    """Plan every rank's micro-batches of one update: ``plan[rank][k]`` holds table rows.

    A micro-batch costs (sequences x longest input) padded tokens, at most ``token_budget``; a
    longer sequence is alone. Every rank gets the same number, the last ones empty where it has less
    to do.
    """
    lengths = input_lengths(table)
    plan = [_pack(rows[table.rank[rows] == rank], lengths, token_budget) for rank in range(ranks)]
    most = max(map(len, plan))
    return [mine + [np.empty(0, np.int32)] * (most - len(mine)) for mine in plan]


def _pack(rows: Int32, lengths: Int32, token_budget: int) -> list[Int32]:
    """Fill micro-batches from the longest sequence down, so that padding stays small."""
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    packed = []
    start = 0
    while start < len(ordered):
        fitting = max(1, token_budget // int(lengths[ordered[start]]))
        packed.append(ordered[start : start + fitting])
        start += fitting
    return packed


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The arrays of one forward pass, with t sampled tokens.

    input_ids [rows, width]: right-padded, given tokens among them. row, column, targets [t]: where
    each sampled token is predicted, and its id. sequence [t]: its row of the batch table.
    token_index [t]: its position in the shard's arrays of sampled tokens. All int64.
    """

    input_ids: Int64
    row: Int64
    column: Int64
    targets: Int64
    sequence: Int64
    token_index: Int64


class ShardIndex:
    """Finds the tokens of a shard's sequences in its flat arrays."""

    def __init__(self, shard: Shard) -> None:
        """Raises ValueError where the table and the flat arrays do not fit together."""
        table, mine = shard.table, shard.sequences
        if len(mine) and min(table.prompt_length[mine].min(), table.length[mine].min()) < 1:
            raise ValueError("every sequence needs at least one prompt and one completion token")
        tokens = (len(shard.prompt_ids), len(shard.completion_ids))
        expected = (int(table.prompt_length[mine].sum()), int(table.length[mine].sum()))
        if tokens != expected:
            raise ValueError(
                f"shard of step {shard.step}, rank {shard.rank}: {tokens} prompt and completion "
                f"tokens, but the table says {expected}"
            )
        self._shard = shard
        self._prompt_start = _starts(table.prompt_length, mine)
        self._start = _starts(table.length, mine)
        self._sampled = sampled_mask(shard.given, len(shard.completion_ids))
        self._sampled_start = _starts(table.sampled, mine)

    def assemble(self, rows: Int32) -> MicroBatch:
        """Build the micro-batch of these table rows, all of this shard.

        Of no rows: a single token of which nothing is scored (t = 0), for a rank that has to take
        part in the collectives of a forward and backward pass and has no work left.
        """
        shard, table = self._shard, self._shard.table
        if not len(rows):
            none = np.empty(0, np.int64)
            return MicroBatch(
                input_ids=np.zeros((1, 1), np.int64),
                row=none,
                column=none,
                targets=none,
                sequence=none,
                token_index=none,
            )
        prompts, lengths = table.prompt_length[rows], table.length[rows]
        input_ids = np.zeros((len(rows), int((prompts + lengths).max())), np.int64)
        for i, sequence in enumerate(rows):
            a, b = self._prompt_start[sequence], self._start[sequence]
            n, m = prompts[i], lengths[i]
            input_ids[i, :n] = shard.prompt_ids[a : a + n]
            input_ids[i, n : n + m] = shard.completion_ids[b : b + m]
        position = _positions(lengths)
        kept = self._sampled[np.repeat(self._start[rows], lengths) + position]
        row = np.repeat(np.arange(len(rows)), lengths)[kept]
        column = (np.repeat(prompts, lengths) + position - 1)[kept]
        sampled = table.sampled[rows]
        return MicroBatch(
            input_ids=input_ids[:, :-1],
            row=row,
            column=column,
            targets=input_ids[row, column + 1],
            sequence=np.repeat(rows, sampled).astype(np.int64),
            token_index=np.repeat(self._sampled_start[rows], sampled) + _positions(sampled),
        )


def _positions(lengths: Int32) -> Int64:
    """The position of every token in its own sequence, for sequences one after another."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _starts(lengths: Int32, mine: Int32) -> Int64:
    """Offsets into a flat array holding ``mine`` one after another, indexed by table row."""
    starts = np.full(len(lengths), -1, np.int64)
    starts[mine] = np.cumsum(lengths[mine]) - lengths[mine]
    return starts
