"""Completions as plain values, one row each: what `asyncds inspect` prints and the reader shows."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from asyncds.protocol.records import EvaluationRecord
from asyncds.tasks.tool_calls import ToolCallError, tool_calls
from asyncds.telemetry.rollouts.read import Rollout, Turn

Row = dict[str, Any]


def rows_of(rollout: Rollout, evaluations: Sequence[EvaluationRecord] = ()) -> Iterator[Row]:
    """A row for each completion of a group.

    step: as in metrics.jsonl, 1 is the first batch, None until it is in one. set: of an evaluation
    that is finished, whose record is given. calls of a turn: of tools, as their names and
    arguments. Of other keys see `read.Completion`.
    """
    group = rollout.group
    record = next((e for e in evaluations if e.id == group.evaluation), None)
    for completion in rollout.completions:
        values = asdict(completion)
        yield {
            "lease": group.lease,
            "purpose": group.purpose,
            "step": None if group.step is None else group.step + 1,
            "evaluation": group.evaluation,
            "set": "" if record is None else set_of(record, group.row),
            "row": group.row,
            "generator": group.generator,
            "lag": group.lag,
            "prompt": rollout.prompt,
            "completion": values.pop("text"),
            "answer": completion.answer,
            **values,
            "turns": [_turn(turn) for turn in completion.turns],
        }


def set_of(evaluation: EvaluationRecord, row: int) -> str:
    """The evaluation set that a row is of, "" where there are none."""
    end = 0
    for name, numbers in evaluation.sets.items():
        end += numbers.n_problems + numbers.n_failed
        if row < end:
            return name
    return ""


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
