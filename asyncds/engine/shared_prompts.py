"""The choice of which completions of a group share a row, so that their prompt is computed once.

A row is a prompt followed by one or several completions, each of which sees the prompt and itself.
With short completions or a long prompt that saves most of the work; with long completions the
attention that is computed between them, and masked, costs more than the prompts.
"""

import numpy as np

from asyncds.protocol.batch import Int32, SequenceTable

Members = list[Int32]
"""The rows of a micro-batch: of each, the rows of the batch table whose sequences it holds."""
MASK_ELEMENTS = 2**27
"""Most elements of a micro-batch's attention mask, which bounds how wide a shared row may be."""


def widest_row(token_budget: int) -> int:
    """Most tokens of a row with several completions, in micro-batches of so many tokens."""
    return min(token_budget, MASK_ELEMENTS // token_budget)


def row_width(table: SequenceTable, row: Int32) -> int:
    """Tokens the model reads of a row: no completion's last, which predicts nothing."""
    return int(table.prompt_length[row[0]] + table.length[row].sum() - len(row))


def share_prompts(
    table: SequenceTable, rows: Int32, *, token_budget: int, hidden_size: int
) -> Members:
    """Divide sequences into rows of one group each, no wider than `widest_row` where shared.

    In the order of ``rows``: a sequence joins the one before it where that costs no more
    floating-point operations than a row of its own.
    """
    members: list[list[int]] = []
    group = width = -1
    widest = widest_row(token_budget)
    for sequence in rows.tolist():
        prompt, more = int(table.prompt_length[sequence]), int(table.length[sequence]) - 1
        if table.group[sequence] == group and width + more <= widest:
            apart = _cost(width, len(members[-1]), hidden_size) + _cost(
                prompt + more, 1, hidden_size
            )
            if _cost(width + more, len(members[-1]) + 1, hidden_size) <= apart:
                members[-1].append(sequence)
                width += more
                continue
        members.append([sequence])
        group, width = int(table.group[sequence]), prompt + more
    return [np.array(row, np.int32) for row in members]


def _cost(width: int, sequences: int, hidden_size: int) -> float:
    """Operations of a row, in those that the linear layers need for a token.

    A layer's weights number about 12 h², two operations each; attention to w tokens takes 4 h w,
    and half of them where it is causal and the masked half is left out.
    """
    seen = width if sequences > 1 else width / 2
    return width * (1 + seen / (6 * hidden_size))
