"""Knowledge of the tiny base model of Countdown: its words, and what it is taught."""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby

from asyncds.tasks.countdown import prompts
from asyncds.tasks.countdown.enumeration import Numbers, solutions
from asyncds.tasks.countdown.expression import write
from asyncds.tasks.countdown.problems import Problem, Space, every_problem, random_expression
from asyncds.tasks.splits import hold_out
from asyncds.tiny.demonstrations import Group

WORDS = (*map(str, range(100)), *"+-*/()=:")
MAX_ENUMERATED = 1_000_000
"""Expressions of a space of which all solutions are taught."""
EXPRESSIONS = 200_000


def taught(space: Space, *, held_out: int, seed: int) -> Iterator[Group]:
    """Problems and their solutions, but for those that are held out.

    The ``held_out`` problems are those that a Countdown task of the same ``seed`` holds out; a
    group has the same numbers.

    Every problem with all its solutions, where the space has no more than a million expressions.
    Beyond, there are too many: those of 200,000 random expressions.
    """
    train, left_out = hold_out(every_problem(space), held_out, seed=seed)
    if space.expressions <= MAX_ENUMERATED:
        return enumerated(train)
    return _sampled(space, set(left_out), seed=seed)


def enumerated(problems: list[Problem]) -> Iterator[Group]:
    """Every solution of every problem: each tree, and so each commutative form, is an answer."""
    for numbers, group in groupby(sorted(problems), key=lambda problem: problem.numbers):
        yield [
            (
                prompts.plain(numbers, problem.target),
                [write(tree) for tree in solutions(numbers, problem.target, natural=True)],
            )
            for problem in group
        ]


def _sampled(space: Space, left_out: set[Problem], *, seed: int) -> Iterator[Group]:
    rng = random.Random(seed)
    found: dict[Numbers, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    taken = 0
    while taken < EXPRESSIONS:
        drawn = random_expression(rng, space)
        if drawn is not None and drawn[0] not in left_out:
            problem, tree = drawn
            found[problem.numbers][problem.target].append(write(tree))
            taken += 1
    for numbers, by_target in sorted(found.items()):
        yield [(prompts.plain(numbers, target), texts) for target, texts in by_target.items()]
