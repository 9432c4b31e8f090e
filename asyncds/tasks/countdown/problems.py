"""Countdown problems that have a solution: all of a small space, or a sample of a large one."""

import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb, factorial

from asyncds.tasks.countdown.enumeration import Numbers, step, values
from asyncds.tasks.countdown.expression import OPERATORS, Expression, Operation

MAX_EXPRESSIONS = 10_000_000
"""A space with no more expressions than this is enumerated: seconds."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Reach ``target`` using each of ``numbers`` (ascending, repeats allowed) exactly once."""

    numbers: Numbers
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A family of problems; the defaults are the tiny setting, 2,905 problems.

    operands: how many numbers a problem has, ≥ 2. max_number: numbers are 1 … max_number.
    max_target: targets are 1 … max_target. natural: a problem belongs to the family only if some
    solution has nothing but integers ≥ 0 as intermediate values.
    """

    operands: int = 3
    max_number: int = 10
    max_target: int = 99
    natural: bool = True

    def __post_init__(self) -> None:
        if self.operands < 2 or self.max_number < 1 or self.max_target < 1:
            raise ValueError(
                "a Countdown problem needs at least 2 operands, and max_number and max_target "
                f"of at least 1: got {self}"
            )

    @property
    def expressions(self) -> int:
        """The most expressions there can be: choices of numbers × orders × shapes × operators."""
        n = self.operands
        choices = comb(self.max_number + n - 1, n)
        shapes = comb(2 * n - 2, n - 1) // n
        return choices * factorial(n) * shapes * len(OPERATORS) ** (n - 1)

    @property
    def is_small(self) -> bool:
        """Whether the space can be enumerated."""
        return self.expressions <= MAX_EXPRESSIONS

    def has_target(self, value: Fraction) -> bool:
        """Whether a value is an integer within the range of targets."""
        return value.denominator == 1 and 1 <= value <= self.max_target


def every_problem(space: Space) -> list[Problem]:
    """All problems of a small space, ascending."""
    number_choices = combinations_with_replacement(range(1, space.max_number + 1), space.operands)
    return [
        Problem(numbers, int(value))
        for numbers in number_choices
        for value in sorted(values(numbers, natural=space.natural))
        if space.has_target(value)
    ]


def sample_problems(space: Space, n: int, *, seed: int) -> list[Problem]:
    """``n`` different problems, from random expressions: numbers, shape and operators uniform.

    Problems with more solutions are more likely. The same arguments give the same list, and a
    longer list begins with a shorter one. Raises ValueError where the space seems exhausted.
    """
    rng = random.Random(seed)
    found: dict[Problem, None] = {}
    attempts_left = 1_000 * (n + 1)
    while len(found) < n:
        if attempts_left == 0:
            raise ValueError(f"found only {len(found)} of {n} different problems in {space}")
        attempts_left -= 1
        drawn = random_expression(rng, space)
        if drawn is not None:
            found[drawn[0]] = None
    return list(found)


def random_expression(rng: random.Random, space: Space) -> tuple[Problem, Expression] | None:
    """A random expression and the problem it solves; None where it belongs to no problem."""
    numbers = rng.choices(range(1, space.max_number + 1), k=space.operands)
    drawn = _random_tree(rng, numbers, space.natural)
    if drawn is None or not space.has_target(drawn[1]):
        return None
    return Problem(tuple(sorted(numbers)), int(drawn[1])), drawn[0]


def _random_tree(
    rng: random.Random, numbers: list[int], natural: bool
) -> tuple[Expression, Fraction] | None:
    """A random expression over the numbers in this order and its value; None without one."""
    if len(numbers) == 1:
        return numbers[0], Fraction(numbers[0])
    cut = rng.randrange(1, len(numbers))
    left = _random_tree(rng, numbers[:cut], natural)
    right = _random_tree(rng, numbers[cut:], natural)
    if left is None or right is None:
        return None
    operator = rng.choice(OPERATORS)
    value = step(operator, left[1], right[1], natural)
    return None if value is None else (Operation(operator, left[0], right[0]), value)
