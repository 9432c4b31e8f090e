"""Countdown's verifier: whether a completion is a solution, and the reward it earns."""

from collections.abc import Sequence
from fractions import Fraction

from asyncds.tasks import tagged
from asyncds.tasks.base import Score
from asyncds.tasks.countdown.expression import (
    EQUIVALENCES,
    ExpressionError,
    canonical,
    evaluate,
    leaves,
    parse,
)


def score_plain(completion: str, numbers: Sequence[int], target: int) -> Score:
    """The whole completion is the answer: reward 1 for a solution, 0 for anything else."""
    correct, answers = judge(completion, numbers, target)
    return Score(float(correct), correct, answers)


def score_tagged(completion: str, numbers: Sequence[int], target: int) -> Score:
    """The answer stands between tags (see ``tagged.score_tagged``)."""
    return tagged.score_tagged(completion, lambda text: judge(text, numbers, target))


def judge(text: str, numbers: Sequence[int], target: int) -> tuple[bool, tuple[str, ...]]:
    """(whether ``text`` is a solution, its canonical form under each equivalence).

    A solution uses every number exactly once and has exactly the value ``target``; intermediate
    values may be negative or fractions. Text that is no expression has no canonical form: ().
    """
    try:
        expression = parse(text)
    except ExpressionError:
        return False, ()
    answers = tuple(canonical(expression, kind) for kind in EQUIVALENCES)
    # The numbers first: only expressions over the problem's own numbers are computed.
    if sorted(leaves(expression)) != sorted(numbers):
        return False, answers
    try:
        return evaluate(expression) == Fraction(target), answers
    except ZeroDivisionError:
        return False, answers
