"""Is a completion a solution of a Countdown problem, and what reward does it earn?"""

from collections.abc import Sequence
from fractions import Fraction

from asyncds.tasks.base import Score
from asyncds.tasks.countdown.expression import (
    EQUIVALENCES,
    ExpressionError,
    canonical,
    evaluate,
    leaves,
    parse,
)

OPENING, CLOSING = "<answer>", "</answer>"
FORMAT_REWARD = 0.1


def score_plain(completion: str, numbers: Sequence[int], target: int) -> Score:
    """The whole completion is the answer: reward 1 for a solution, 0 for anything else."""
    correct, answers = judge(completion, numbers, target)
    return Score(float(correct), correct, answers)


def score_tagged(completion: str, numbers: Sequence[int], target: int) -> Score:
    """The answer is the content of the last ``<answer>…</answer>``.

    Reward 0 without one, 0.1 for one that is not a solution, 1 for a solution: the rules that the
    data set ``Jiayi-Pan/Countdown-Tasks-3to4`` is commonly used with.
    """
    text = tagged_answer(completion)
    if text is None:
        return Score(0.0, False)
    correct, answers = judge(text, numbers, target)
    return Score(1.0 if correct else FORMAT_REWARD, correct, answers)


def tagged_answer(completion: str) -> str | None:
    """What stands between the last closing tag and the opening tag before it, or None."""
    end = completion.rfind(CLOSING)
    start = completion.rfind(OPENING, 0, max(end, 0))
    return None if start < 0 else completion[start + len(OPENING) : end]


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
