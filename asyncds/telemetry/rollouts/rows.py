"""Completions as plain values, one row each: what `asyncds inspect` prints and the reader shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asyncds.rollout.row_sets import set_of
from asyncds.tasks.tool_calls import ToolCallError, tool_calls
from asyncds.telemetry.rollouts.read import Rollout, Turn

Row = dict[str, Any]


def rows_of(rollout: Rollout, sets: Mapping[str, Sequence[tuple[str, int]]]) -> Iterator[Row]:
    """A row for each completion of a group.

    sets: by purpose, as the journal has them (`row_sets`). step: as in metrics.jsonl, 1 is the
    first batch, None until it is in one. set: the task, or the evaluation set, that the problem is
    of. calls of a turn: of tools, as their names and arguments. Of other keys see
    `read.Completion`.
    """
    group = rollout.group
    for completion in rollout.completions:
        values = asdict(completion)
        yield {
            "lease": group.lease,
            "purpose": group.purpose,
            "step": None if group.step is None else group.step + 1,
            "evaluation": group.evaluation,
            "set": set_of(sets.get(group.purpose, ()), group.row),
            "row": group.row,
            "generator": group.generator,
            "lag": group.lag,
            "prompt": rollout.prompt,
            "completion": values.pop("text"),
            "answer": completion.answer,
            **values,
            "turns": [_turn(turn) for turn in completion.turns],
        }


def _turn(turn: Turn) -> Row:
    return {
        "text": turn.text,
        "sampled": turn.sampled,
        "calls": _calls(turn.text) if turn.sampled else [],
        "tokens": [list(token) for token in turn.tokens],
    }


def _calls(text: str) -> list[str]:
    try:
        return [
            f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
            for call in tool_calls(text)
        ]
    except ToolCallError as error:
        return [f"unreadable: {error}"]
