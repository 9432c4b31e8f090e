"""The plan of updates and micro-batches: the sequences that a rank computes together.

Everything is a function of the sequence table that all ranks hold, so that ranks agree on the
number of micro-batches (and so on the collectives that go with them) without talking to each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asyncds.engine.shared_prompts import Members, row_width, share_prompts, widest_row
from asyncds.protocol.batch import Int32, SequenceTable, Shard
from asyncds.protocol.spans import sampled_mask

Int64 = npt.NDArray[np.int64]


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
    table: SequenceTable,
    rows: Int32,
    *,
    ranks: int,
    token_budget: int,
    hidden_size: int | None = None,
) -> list[list[Members]]:
    """Plan every rank's micro-batches of one update, as ``plan[rank][k]``.

    A micro-batch costs (rows x widest row) padded tokens, at most ``token_budget``; a longer
    sequence is alone. Every rank gets the same number, the last ones empty where it has less
    to do. hidden_size: of a model that can compute a group's prompt once for several completions,
    which is done where it is cheaper.
    """
    plan = []
    for rank in range(ranks):
        mine = rows[table.rank[rows] == rank]
        if hidden_size is None:
            members = list(mine[:, None])
        else:
            members = share_prompts(table, mine, token_budget=token_budget, hidden_size=hidden_size)
        # Apart, since the mask of a micro-batch with shared rows is as wide as its widest.
        wide = [row for row in members if row_width(table, row) > widest_row(token_budget)]
        rest = [row for row in members if row_width(table, row) <= widest_row(token_budget)]
        plan.append(_pack(wide, table, token_budget) + _pack(rest, table, token_budget))
    most = max(map(len, plan))
    return [mine + [[]] * (most - len(mine)) for mine in plan]


def padding(plan: Iterable[Members], table: SequenceTable) -> float:
    """The share of the positions computed in these micro-batches which hold nothing."""
    widths = [[row_width(table, row) for row in members] for members in plan if members]
    computed = sum(len(w) * max(w) for w in widths)
    return 1 - sum(map(sum, widths)) / computed if computed else 0.0


def _pack(members: Members, table: SequenceTable, token_budget: int) -> list[Members]:
    """Fill micro-batches from the widest row down, so that padding stays small."""
    widths = np.array([row_width(table, row) for row in members], np.int64)
    ordered = np.argsort(-widths, kind="stable")
    packed = []
    start = 0
    while start < len(ordered):
        fitting = max(1, token_budget // int(widths[ordered[start]]))
        packed.append([members[i] for i in ordered[start : start + fitting]])
        start += fitting
    return packed


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The arrays of one forward pass, with t sampled tokens.

    input_ids [rows, width]: right-padded, given tokens among them. row, column, targets [t]: where
    each sampled token is predicted, and its id. sequence [t]: its row of the batch table.
    token_index [t]: its position in the shard's arrays of sampled tokens. All int64.

    Where a row holds several completions of one prompt, position [rows, width] is each token's
    place in its own sequence and segment [rows, width] what it belongs to: 0 the prompt, 1, 2, …
    a completion, which sees the prompt and itself. None where every row is one sequence.
    """

    input_ids: Int64
    position: Int64 | None
    segment: Int64 | None
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

    def assemble(self, members: Members) -> MicroBatch:
        """Build the micro-batch of these rows, all of this shard.

        Of no rows: a single token of which nothing is scored (t = 0), for a rank that has to take
        part in the collectives of a forward and backward pass and has no work left.
        """
        shard, table = self._shard, self._shard.table
        if not members:
            none = np.empty(0, np.int64)
            return MicroBatch(
                input_ids=np.zeros((1, 1), np.int64),
                position=None,
                segment=None,
                row=none,
                column=none,
                targets=none,
                sequence=none,
                token_index=none,
            )
        sequences = np.concatenate(members)
        lengths, sampled = table.length[sequences], table.sampled[sequences]
        width = max(row_width(table, row) for row in members)
        input_ids, position, segment = np.zeros((3, len(members), width), np.int64)
        first = np.empty(len(sequences), np.int64)  # the column of each completion's second target
        k = 0
        for i, row in enumerate(members):
            n, start = int(table.prompt_length[row[0]]), self._prompt_start[row[0]]
            input_ids[i, :n] = shard.prompt_ids[start : start + n]
            position[i, :n] = np.arange(n)
            at = n
            for j, sequence in enumerate(row):
                begin, m = self._start[sequence], int(lengths[k]) - 1
                input_ids[i, at : at + m] = shard.completion_ids[begin : begin + m]
                position[i, at : at + m] = np.arange(n, n + m)
                segment[i, at : at + m] = j + 1
                first[k] = at
                at += m
                k += 1
        token = _positions(lengths)
        flat = np.repeat(self._start[sequences], lengths) + token
        kept = self._sampled[flat]
        # A completion's first token is predicted at the end of the prompt, wherever it stands.
        prompt_end = np.repeat(table.prompt_length[sequences] - 1, lengths)
        column = np.where(token == 0, prompt_end, np.repeat(first, lengths) + token - 1)
        row_of = np.repeat(np.arange(len(members)), [len(row) for row in members])
        shared = len(sequences) > len(members)
        return MicroBatch(
            input_ids=input_ids,
            position=position if shared else None,
            segment=segment if shared else None,
            row=np.repeat(row_of, lengths)[kept],
            column=column[kept],
            targets=shard.completion_ids[flat[kept]].astype(np.int64),
            sequence=np.repeat(sequences, sampled).astype(np.int64),
            token_index=np.repeat(self._sampled_start[sequences], sampled) + _positions(sampled),
        )


def _positions(lengths: Int32) -> Int64:
    """The position of every token in its own sequence, for sequences one after another."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _starts(lengths: Int32, mine: Int32) -> Int64:
    """Offsets into a flat array holding ``mine`` one after another, indexed by table row."""
    starts = np.full(len(lengths), -1, np.int64)
    starts[mine] = np.cumsum(lengths[mine]) - lengths[mine]
    return starts
