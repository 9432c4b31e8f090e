"""Every expression that uses each of some numbers exactly once: which values, how many, which.

The trees over a multiset of numbers are built from its splits into two non-empty parts, each split
taken once, so that equal numbers never give the same tree twice. Two trees differ when they are
written differently (see ``expression.write``).
"""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import product

from asyncds.tasks.countdown.expression import (
    EQUIVALENCES,
    OPERATORS,
    Equivalence,
    Expression,
    Operation,
    apply,
    canonical,
)

Numbers = tuple[int, ...]


def values(numbers: Numbers, *, natural: bool = False) -> Counter[Fraction]:
    """How many expressions over ``numbers`` (ascending) have which value.

    natural: count only expressions whose intermediate values are all integers ≥ 0.
    """
    if len(numbers) == 1:
        return Counter({Fraction(numbers[0]): 1})
    counts: Counter[Fraction] = Counter()
    for left, right in _splits(numbers):
        pairs = product(_values(left, natural).items(), _values(right, natural).items())
        for (a, n_a), (b, n_b) in pairs:
            for operator in OPERATORS:
                value = step(operator, a, b, natural)
                if value is not None:
                    counts[value] += n_a * n_b
    return counts


def expressions(
    numbers: Numbers, *, natural: bool = False
) -> Iterator[tuple[Expression, Fraction]]:
    """Every expression over ``numbers`` (ascending), each once, with its value."""
    if len(numbers) == 1:
        yield numbers[0], Fraction(numbers[0])
    for left, right in _splits(numbers):
        pairs = product(_expressions(left, natural), _expressions(right, natural))
        for (a, value_a), (b, value_b) in pairs:
            for operator in OPERATORS:
                value = step(operator, value_a, value_b, natural)
                if value is not None:
                    yield Operation(operator, a, b), value


def solutions(numbers: Numbers, target: int, *, natural: bool = False) -> Iterator[Expression]:
    """Every expression over ``numbers`` (ascending) with the value ``target``, each once."""
    if numbers == (target,):
        yield target
    for left, right in _splits(numbers):
        # What reaches the target depends on the left part's value alone, and few are different.
        partners: dict[Fraction, list[tuple[str, Expression]]] = {}
        for a, value_a in _expressions(left, natural):
            if value_a not in partners:
                partners[value_a] = [
                    (operator, b)
                    for b, value_b in _expressions(right, natural)
                    for operator in OPERATORS
                    if step(operator, value_a, value_b, natural) == target
                ]
            yield from (Operation(operator, a, b) for operator, b in partners[value_a])


def multiplicity(numbers: Numbers, target: int, *, natural: bool = False) -> dict[Equivalence, int]:
    """The number of different solutions of a problem under each equivalence.

    The solution multiplicity of arXiv 2511.19942 (equation 2) is its mean over problems.
    """
    found = list(solutions(tuple(sorted(numbers)), target, natural=natural))
    return {kind: len({canonical(tree, kind) for tree in found}) for kind in EQUIVALENCES}


# Only what is over a part of some numbers is kept: parts are small, and come again and again.
@lru_cache(maxsize=256)
def _values(numbers: Numbers, natural: bool) -> Counter[Fraction]:
    return values(numbers, natural=natural)


@lru_cache(maxsize=256)
def _expressions(numbers: Numbers, natural: bool) -> tuple[tuple[Expression, Fraction], ...]:
    return tuple(expressions(numbers, natural=natural))


def _splits(numbers: Numbers) -> list[tuple[Numbers, Numbers]]:
    """The different ordered splits of a multiset into two non-empty ones (both ascending)."""
    found = {}
    for mask in range(1, 2 ** len(numbers) - 1):
        left = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        found[left] = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
    return list(found.items())


def step(operator: str, left: Fraction, right: Fraction, natural: bool) -> Fraction | None:
    """The value of one operation, or None where it does not exist or is not allowed."""
    if operator == "/" and right == 0:
        return None
    value = apply(operator, left, right)
    if natural and (value < 0 or value.denominator != 1):
        return None
    return value
