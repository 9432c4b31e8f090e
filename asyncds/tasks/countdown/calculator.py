"""Countdown with a calculator: an environment in which a guess can be checked before it counts."""

from collections.abc import Sequence
from typing import Any

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split
from asyncds.tasks.countdown.expression import Equivalence, ExpressionError, evaluate, parse
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.countdown.verifier import score_plain
from asyncds.tasks.environment import Answer, Environment, Episode

CALL = "="
"""What a turn ends with that asks for the value of what stands before it."""
LARGEST = 99
"""The largest value that is told: the tiny model has no words for others."""


def told(call: str) -> str:
    """The calculator's words for the value of an expression, ``12 :``, or ``- :`` for others.

    Raises ExpressionError for what is no expression, ZeroDivisionError where it has no value.
    """
    value = evaluate(parse(call))
    known = value.denominator == 1 and 0 <= value <= LARGEST
    return f"{value if known else '-'} :"


class CalculatorTask(Environment):
    """Countdown whose problems are solved over several turns.

    A turn that ends in ``=`` is a call: ``5 * 6 =`` is answered by ``30 :``. A turn without it is
    the answer, with a reward of 1 or 0. options: of ``CountdownTask``, for its problems.
    """

    name = "calculator"
    equivalences = CountdownTask.equivalences
    equivalence: Equivalence = "written"
    stop = (CALL,)
    reward_parts = ("calls", "tool_errors")

    def __init__(self, *, equivalence: Equivalence = "written", **options: Any) -> None:
        self._problems = CountdownTask(equivalence=equivalence, **options)
        self.equivalence = equivalence

    def rows(self, split: Split) -> Sequence[Row]:
        return self._problems.rows(split)

    def prompt(self, row: Row) -> Prompt:
        return self._problems.prompt(row)

    def own_answers(self, row: Row) -> Sequence[str]:
        return self._problems.own_answers(row)

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        return self._problems.multiplicity(row)

    def fingerprint(self) -> str:
        return base.fingerprint(self)

    def start(self, row: Row) -> Episode:
        return _Calculation(row)


class _Calculation(Episode):
    def __init__(self, row: Row) -> None:
        self._row = row
        self._calls = self._errors = 0

    def step(self, completion: str) -> Answer | Score:
        if not completion.rstrip().endswith(CALL):
            score = score_plain(completion, **self._row.fields)
            return Score(score.reward, score.correct, score.answers, self._parts())
        self._calls += 1
        try:
            return Answer(told(completion.rstrip().removesuffix(CALL)))
        except (ExpressionError, ZeroDivisionError):
            self._errors += 1
            return Answer("- :")

    def cut_off(self) -> Score:
        return Score(0.0, False, (), self._parts())

    def _parts(self) -> dict[str, float]:
        return {"calls": self._calls, "tool_errors": self._errors}
