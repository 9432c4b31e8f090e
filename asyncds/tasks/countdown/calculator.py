"""Countdown with a calculator: an environment in which a guess can be checked before it counts."""

from collections.abc import Sequence
from typing import Any

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split
from asyncds.tasks.countdown.expression import (
    Equivalence,
    Expression,
    ExpressionError,
    canonical,
    evaluate,
    parse,
)
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.countdown.verifier import judge
from asyncds.tasks.environment import Answer, Environment, Episode

CALL = "="
"""What a turn ends with that asks for the value of what stands before it."""
LARGEST = 99
"""The largest value that is told: the tiny model has no words for others."""
NO_VALUE = "- :"
"""The calculator's words where there is no value that it can tell."""


def told(expression: Expression) -> str:
    """The calculator's words for the value of an expression, ``12 :``.

    Raises ZeroDivisionError where it has no value.
    """
    value = evaluate(expression)
    known = value.denominator == 1 and 0 <= value <= LARGEST
    return f"{value} :" if known else NO_VALUE


class CalculatorTask(Environment):
    """Countdown whose problems are solved over several turns.

    A turn that ends in ``=`` is a call: ``5 * 6 =`` is answered by ``30 :``. A turn without it is
    the answer, which counts if the calculator was asked for it before: its reward is 1 if it is
    right then, else 0. So a guess pays nothing, and a value that is not the target is a reason to
    try another expression. options: of ``CountdownTask``, for its problems.
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

    def own_turns(self, row: Row) -> Sequence[str]:
        return [
            turn
            for answer in self._problems.own_answers(row)
            for turn in (f"{answer} {CALL}", answer)
        ]

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
        self._checked: set[str] = set()

    def step(self, completion: str) -> Answer | Score:
        if completion.rstrip().endswith(CALL):
            return Answer(self._call(completion.rstrip().removesuffix(CALL)))
        right, answers = judge(completion, **self._row.fields)
        right = right and answers[0] in self._checked
        return Score(float(right), right, answers, self._parts())

    def _call(self, text: str) -> str:
        self._calls += 1
        try:
            expression = parse(text)
            words = told(expression)
        except (ExpressionError, ZeroDivisionError):
            self._errors += 1
            return NO_VALUE
        self._checked.add(canonical(expression, "written"))
        return words

    def cut_off(self) -> Score:
        return Score(0.0, False, (), self._parts())

    def _parts(self) -> dict[str, float]:
        return {"calls": self._calls, "tool_errors": self._errors}
