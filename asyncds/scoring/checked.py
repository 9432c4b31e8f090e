"""Whether what a task returned is a judgement that can be learnt from."""

import math
from typing import Any

from asyncds.tasks.base import InvalidScoreError, Score, Task, reward_parts

LARGEST = 3e38
"""Rewards travel as float32."""
LONGEST_ANSWER = 10_000
"""Characters of an answer's canonical form, which the journal keeps."""


def checked(task: Task, score: Any) -> Score:
    """The score, with plain numbers. Raises InvalidScoreError with what is wrong."""
    if not isinstance(score, Score):
        raise InvalidScoreError(f"the task returned {score!r:.80}, not a Score")
    if unknown := set(score.parts) - {*reward_parts(task)}:
        raise InvalidScoreError(f"the task's reward_parts lack {', '.join(map(str, unknown))}")
    answers = tuple(score.answers)
    if answers and len(answers) != len(task.equivalences):
        raise InvalidScoreError(
            f"{len(answers)} answers, and the task has {len(task.equivalences)} equivalences"
        )
    for answer in answers:
        if not isinstance(answer, str) or len(answer) > LONGEST_ANSWER:
            raise InvalidScoreError(
                f"an answer's form must be a text of at most {LONGEST_ANSWER} characters, not "
                f"{answer!r:.80}"
            )
    return Score(
        reward=_number("reward", score.reward),
        correct=bool(score.correct),
        answers=answers,
        parts={name: _number(name, value) for name, value in score.parts.items()},
    )


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise InvalidScoreError(f"{name} is {value!r:.80}, not a finite number")
    return number
