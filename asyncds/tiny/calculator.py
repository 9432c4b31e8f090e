"""Knowledge of the tiny base model of Countdown with a calculator: how it is used."""

import random
from collections.abc import Iterator
from itertools import groupby

from asyncds.tasks.countdown import prompts
from asyncds.tasks.countdown.calculator import CALL, told
from asyncds.tasks.countdown.enumeration import solutions
from asyncds.tasks.countdown.expression import parse, write
from asyncds.tasks.countdown.problems import Space, every_problem
from asyncds.tasks.splits import hold_out
from asyncds.tiny import countdown
from asyncds.tiny.demonstrations import Group

WORDS = countdown.WORDS
TRANSCRIPTS = 8
"""Demonstrations of a problem."""


def taught(space: Space, *, held_out: int, seed: int) -> Iterator[Group]:
    """Problems and transcripts that solve them, but for those that are held out.

    A transcript is a solution, which the calculator was mostly asked for before, and up to two
    other expressions before that; what it says is part of the transcript.
    """
    train, _ = hold_out(every_problem(space), held_out, seed=seed)
    rng = random.Random(seed)
    for numbers, group in groupby(sorted(train), key=lambda problem: problem.numbers):
        known = {
            problem.target: [
                write(tree) for tree in solutions(numbers, problem.target, natural=True)
            ]
            for problem in group
        }
        everything = [text for texts in known.values() for text in texts]
        yield [
            (
                prompts.plain(numbers, target),
                [_transcript(rng, rng.choice(right), everything) for _ in range(TRANSCRIPTS)],
            )
            for target, right in known.items()
        ]


def _transcript(rng: random.Random, right: str, others: list[str]) -> str:
    calls = [rng.choice(others) for _ in range(rng.randrange(3))]
    calls += [right] if rng.random() < 0.75 else []
    return " ".join([*(f"{call} {CALL} {told(parse(call))}" for call in calls), right])
