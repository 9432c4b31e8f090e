"""Whether what a task returned is a judgement that can be learnt from."""

import math
from typing import Any

from asyncds.tasks.base import InvalidScoreError, Score, Task, reward_parts
from asyncds.tasks.environment import LONGEST_ANSWER as LONGEST_SAID
from asyncds.tasks.environment import Answer

LARGEST = 3e38
"""Rewards travel as float32."""
LONGEST_ANSWER = 10_000
"""Characters of an answer's canonical form, which the journal keeps."""


class AnswerTooLongError(ValueError):
    """An environment said more than it may."""


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


def checked_answer(task: Task, said: Any) -> Answer | Score:
    """An environment's words, if a policy can read them. Raises InvalidScoreError.

    Raises AnswerTooLongError for more than LONGEST_ANSWER characters.
    """
    if not isinstance(said, Answer):
        return checked(task, said)
    texts = said.texts
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidScoreError(f"the environment said {said!r:.80}, which is not text")
    if (length := sum(map(len, texts))) > LONGEST_SAID:
        raise AnswerTooLongError(f"an answer of {length:,} characters, more than {LONGEST_SAID:,}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InvalidScoreError(f"the environment said what is not Unicode: {error}") from None
    return Answer(texts)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise InvalidScoreError(f"{name} is {value!r:.80}, not a finite number")
    return number
