"""Answers between tags, as chat models are asked for them."""

from collections.abc import Callable

from asyncds.tasks.base import Score

OPENING, CLOSING = "<answer>", "</answer>"
FORMAT_REWARD = 0.1

Judge = Callable[[str], tuple[bool, tuple[str, ...]]]
"""A verifier: answer → (whether it is correct, its canonical form by equivalence)."""


def score_tagged(completion: str, judge: Judge) -> Score:
    """The answer is the content of the last ``<answer>…</answer>``.

    Reward 0 without one, 0.1 for one that is not correct, 1 for a correct one: the rules that the
    data set ``Jiayi-Pan/Countdown-Tasks-3to4`` is commonly used with.
    """
    text = tagged_answer(completion)
    if text is None:
        return Score(0.0, False)
    correct, answers = judge(text)
    return Score(1.0 if correct else FORMAT_REWARD, correct, answers)


def tagged_answer(completion: str) -> str | None:
    """The text between the last closing tag and the opening tag before it, or None."""
    end = completion.rfind(CLOSING)
    start = completion.rfind(OPENING, 0, max(end, 0))
    return None if start < 0 else completion[start + len(OPENING) : end]
