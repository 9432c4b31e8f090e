"""The verifier of math: whether the boxed answer of a completion is the right one."""

from asyncds.tasks.base import Score
from asyncds.tasks.math.boxes import boxed
from asyncds.tasks.math.equality import same_answer
from asyncds.tasks.math.expressions import canonical
from asyncds.tasks.math.guard import no_generated_code
from asyncds.tasks.math.typography import clean

MAX_CHARACTERS = 1_000
"""A longer answer is none: no answer of the usual data sets is nearly as long."""


def score_boxed(completion: str, answer: str) -> Score:
    """Reward 1 if the last ``\\boxed{…}`` of the completion equals ``answer``, else 0.

    answer: LaTeX, or a text with a box of its own. All correct answers are one answer, whose
    canonical form is that of ``answer``; a wrong one has its own. No box, one that is not closed,
    or one of more than 1,000 characters: no answer. Raises whatever math-verify raises where it
    can't compare the two; may take any time and memory.
    """
    text = boxed(completion)
    if text is None or len(text) > MAX_CHARACTERS or not clean(text):
        return Score(0.0, False)
    solution = boxed(answer)
    right = answer if solution is None else solution
    with no_generated_code():
        correct = same_answer(right, text)
        return Score(float(correct), correct, (canonical(clean(right if correct else text)),))
