"""The verifier of Knights and Knaves: whether a completion is the solution, and its reward.

The canonical form of an answer is ``prompts.plain_answer``, whatever the form of the prompt.
"""

import re

from asyncds.tasks import tagged
from asyncds.tasks.base import Score
from asyncds.tasks.knights_knaves.prompts import KNAVE, KNIGHT, NAMES, plain_answer
from asyncds.tasks.knights_knaves.puzzles import Assignment, Puzzle, solutions

_CLAIM = re.compile(r"\b(\w+) is an? (knight|knave)\b", re.IGNORECASE | re.ASCII)


def score_plain(completion: str, puzzle: Puzzle) -> Score:
    """The whole completion is the answer, like ``K N K``: reward 1 for the solution, else 0."""
    words = completion.split()
    if len(words) != len(puzzle) or not set(words) <= {KNIGHT, KNAVE}:
        return Score(0.0, False)
    correct, answers = _judge(tuple(word == KNIGHT for word in words), puzzle)
    return Score(float(correct), correct, answers)


def score_tagged(completion: str, puzzle: Puzzle) -> Score:
    """The score of an answer between tags (see ``tagged.score_tagged``).

    It is like ``Ada is a knight, and Ben is a knave``: everyone once, in any order.
    """
    return tagged.score_tagged(completion, lambda text: judge(text, puzzle))


def judge(text: str, puzzle: Puzzle) -> tuple[bool, tuple[str, ...]]:
    """(whether ``text`` is the solution, its canonical form).

    () unless it says what everyone is, nobody twice differently and no stranger.
    """
    names = [name.lower() for name in NAMES[: len(puzzle)]]
    claims = {(name.lower(), kind.lower()) for name, kind in _CLAIM.findall(text)}
    kinds = dict(claims)
    if len(claims) != len(names) or set(kinds) != set(names):
        return False, ()
    return _judge(tuple(kinds[name] == "knight" for name in names), puzzle)


def _judge(knights: Assignment, puzzle: Puzzle) -> tuple[bool, tuple[str, ...]]:
    return solutions(puzzle) == [knights], (plain_answer(knights),)
