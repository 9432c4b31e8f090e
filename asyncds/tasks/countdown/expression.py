"""Arithmetic expressions as a model writes them: parse, evaluate, write, tell which are the same.

Text from a model is never evaluated as code. A small recursive-descent parser reads whole numbers,
the four binary operators and parentheses; everything else is refused with ExpressionError. There is
no unary minus, no decimal point and no other operator, so that what can be written is exactly what
``enumeration`` counts. Arithmetic is exact (fractions), and length, depth and the size of the
numbers are bounded before anything is computed.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Equivalence = Literal["written", "commutative", "associative"]
EQUIVALENCES: tuple[Equivalence, ...] = get_args(Equivalence)
"""Strictest first: expressions that are the same under one are the same under those after it."""

MAX_CHARACTERS = 512
MAX_DEPTH = 32
MAX_DIGITS = 9

OPERATORS = "+-*/"
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


class ExpressionError(ValueError):
    """The text is not an expression of this grammar, or exceeds its bounds."""


@dataclass(frozen=True, slots=True)
class Operation:
    """``left operator right``, operator one of ``+ - * /``."""

    operator: str
    left: "Expression"
    right: "Expression"


Expression = int | Operation


def parse(text: str) -> Expression:
    """Read an expression; the usual precedence, operators of one level bind to the left.

    Raises ExpressionError for anything outside the grammar, more than MAX_CHARACTERS characters,
    parentheses deeper than MAX_DEPTH or numbers longer than MAX_DIGITS digits.
    """
    tokens = _tokens(text)
    expression = _sum(tokens, depth=0)
    if tokens:
        raise ExpressionError(f"unexpected {tokens[-1]!r} after the expression")
    return expression


def evaluate(expression: Expression) -> Fraction:
    """The exact value. Raises ZeroDivisionError where a divisor is zero."""
    if isinstance(expression, int):
        return Fraction(expression)
    return apply(expression.operator, evaluate(expression.left), evaluate(expression.right))


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """One operation on exact values. Raises ZeroDivisionError where a divisor is zero."""
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
    raise ValueError(f"unknown operator {operator!r}")


def leaves(expression: Expression) -> list[int]:
    """The numbers of the expression, from left to right."""
    if isinstance(expression, int):
        return [expression]
    return leaves(expression.left) + leaves(expression.right)


def write(expression: Expression) -> str:
    """The expression with no more parentheses than it needs, tokens separated by one space.

    ``parse(write(e)) == e``: ``a + (b + c)`` keeps its parentheses, for without them it is another
    tree.
    """
    if isinstance(expression, int):
        return str(expression)
    level = _PRECEDENCE[expression.operator]
    left, right = write(expression.left), write(expression.right)
    if _level(expression.left) < level:
        left = f"( {left} )"
    if _level(expression.right) <= level:
        right = f"( {right} )"
    return f"{left} {expression.operator} {right}"


def canonical(expression: Expression, equivalence: Equivalence) -> str:
    """A key that two expressions share exactly when they are the same under ``equivalence``.

    written: the same tree; whitespace and redundant parentheses do not count.
    commutative: also up to the order of the operands of every ``+`` and ``*``.
    associative: also up to grouping, with ``a - b`` read as the sum of a and the opposite of b and
        ``a / b`` as the product of a and the inverse of b: ``a - (b - c)`` is ``a + c - b``.
        Nothing is distributed or cancelled: ``a * 1`` is not ``a / 1``.
    """
    if equivalence == "written":
        return write(expression)
    if equivalence == "commutative":
        return _commutative(expression)
    return _flat(expression)


def _tokens(text: str) -> list[str]:
    """The tokens in reverse order, so that the parser takes the next one with ``pop()``."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    text = text.strip()
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected character {text[position]!r}")
        if len(match[1]) > MAX_DIGITS:
            raise ExpressionError(f"a number longer than {MAX_DIGITS} digits")
        tokens.append(match[1])
        position = match.end()
    return tokens[::-1]


def _sum(tokens: list[str], *, depth: int) -> Expression:
    expression = _product(tokens, depth=depth)
    while tokens and tokens[-1] in "+-":
        expression = Operation(tokens.pop(), expression, _product(tokens, depth=depth))
    return expression


def _product(tokens: list[str], *, depth: int) -> Expression:
    expression = _atom(tokens, depth=depth)
    while tokens and tokens[-1] in "*/":
        expression = Operation(tokens.pop(), expression, _atom(tokens, depth=depth))
    return expression


def _atom(tokens: list[str], *, depth: int) -> Expression:
    if not tokens:
        raise ExpressionError("the expression ends where a number is expected")
    token = tokens.pop()
    if token.isdigit():
        return int(token)
    if token != "(":
        raise ExpressionError(f"{token!r} where a number is expected")
    if depth == MAX_DEPTH:
        raise ExpressionError(f"parentheses deeper than {MAX_DEPTH}")
    expression = _sum(tokens, depth=depth + 1)
    if not tokens or tokens.pop() != ")":
        raise ExpressionError("a parenthesis is not closed")
    return expression


def _level(expression: Expression) -> int:
    return 3 if isinstance(expression, int) else _PRECEDENCE[expression.operator]


def _commutative(expression: Expression) -> str:
    if isinstance(expression, int):
        return str(expression)
    operands = [_commutative(expression.left), _commutative(expression.right)]
    if expression.operator in "+*":
        operands.sort()
    return f"({operands[0]}{expression.operator}{operands[1]})"


def _flat(expression: Expression) -> str:
    if isinstance(expression, int):
        return str(expression)
    plus, minus = ("+", "-") if expression.operator in "+-" else ("*", "/")
    direct, inverse = _chain(expression, plus, minus)
    return f"({plus.join(sorted(direct))}{''.join(minus + key for key in sorted(inverse))})"


def _chain(expression: Expression, plus: str, minus: str) -> tuple[list[str], list[str]]:
    """The keys of the terms of a chain of ``plus`` and ``minus``: direct ones, inverted ones."""
    if isinstance(expression, int) or expression.operator not in (plus, minus):
        return [_flat(expression)], []
    direct, inverse = _chain(expression.left, plus, minus)
    right_direct, right_inverse = _chain(expression.right, plus, minus)
    if expression.operator == minus:
        right_direct, right_inverse = right_inverse, right_direct
    return direct + right_direct, inverse + right_inverse
