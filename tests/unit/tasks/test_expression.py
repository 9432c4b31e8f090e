"""Parsing, writing and comparing expressions."""

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.tasks.countdown.expression import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    Expression,
    ExpressionError,
    Operation,
    canonical,
    evaluate,
    leaves,
    parse,
    write,
)

expressions = st.recursive(
    st.integers(0, 99),
    lambda inner: st.builds(Operation, st.sampled_from("+-*/"), inner, inner),
    max_leaves=8,
)


def same(a: str, b: str, equivalence: str) -> bool:
    return canonical(parse(a), equivalence) == canonical(parse(b), equivalence)  # type: ignore[arg-type]


@settings(deadline=None)
@given(expressions)
def test_writing_and_parsing_are_inverse(expression: Expression) -> None:
    assert parse(write(expression)) == expression
    assert parse(write(expression).replace(" ", "")) == expression


@settings(deadline=None)
@given(expressions)
def test_value_is_python_s_value(expression: Expression) -> None:
    def python(e: Expression) -> str:
        return (
            f"Fraction({e})"
            if isinstance(e, int)
            else f"({python(e.left)}{e.operator}{python(e.right)})"
        )

    try:
        expected = eval(python(expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(expression)
    else:
        assert evaluate(expression) == expected


@settings(deadline=None)
@given(expressions)
def test_written_text_means_what_python_means(expression: Expression) -> None:
    text = write(expression)
    try:
        expected = eval(text)
    except ZeroDivisionError:
        return
    assert float(evaluate(parse(text))) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with suppress(ExpressionError, ZeroDivisionError):
        evaluate(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "1 +",
        "+ 1",
        "-1",
        "1 2",
        "(1",
        "1)",
        "1(2)",
        "2**3",
        "7//2",
        "1.5",
        "1e3",
        "1_000",
        "٣ + 1",
        "1 = 1",
        "__import__('os')",
        "1;2",
        "1000000000000",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_bounds_hold_before_anything_is_computed() -> None:
    assert evaluate(parse("1" + "+1" * (MAX_CHARACTERS // 2 - 1))) == MAX_CHARACTERS // 2
    with pytest.raises(ExpressionError, match="longer"):
        parse("1" + "+1" * MAX_CHARACTERS)
    assert parse("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH) == 1
    with pytest.raises(ExpressionError, match="deeper"):
        parse("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1))


def test_leaves_from_left_to_right() -> None:
    assert leaves(parse("3 * (1 + 2) - 1")) == [3, 1, 2, 1]


@pytest.mark.parametrize(
    ("a", "b", "levels"),
    [
        ("2*(10+5)", "( (2) ) * (10 +5)", "written commutative associative"),
        ("1 + 2", "2 + 1", "commutative associative"),
        ("2 * (3 + 4)", "(4 + 3) * 2", "commutative associative"),
        ("1 + (2 + 3)", "1 + 2 + 3", "associative"),
        ("1 + (2 + 3)", "3 + 1 + 2", "associative"),
        ("8 - (5 - 2)", "8 + 2 - 5", "associative"),
        ("8 - 5 - 2", "8 - (2 + 5)", "associative"),
        ("8 / (4 / 2)", "8 * 2 / 4", "associative"),
        ("(1 + 2) * (3 - 1)", "(3 - 1) * (2 + 1)", "commutative associative"),
        ("1 - 2", "2 - 1", ""),
        ("4 / 2", "2 / 4", ""),
        ("3 * 1", "3 / 1", ""),
        ("2 + 2", "2 * 2", ""),
        ("1 - (2 + 3)", "1 - 2 + 3", ""),
        ("2 * 3 + 4", "2 * (3 + 4)", ""),
        ("1 + 2 * 3", "1 * 2 + 3", ""),
    ],
)
def test_equivalences(a: str, b: str, levels: str) -> None:
    found = [level for level in ("written", "commutative", "associative") if same(a, b, level)]
    assert found == levels.split()


@settings(deadline=None)
@given(expressions, expressions)
def test_equivalent_expressions_have_one_value(a: Expression, b: Expression) -> None:
    """Also with the operands of b's commutative operations exchanged."""

    def value(e: Expression) -> Fraction | None:
        try:
            return evaluate(e)
        except ZeroDivisionError:
            return None

    def exchanged(e: Expression) -> Expression:
        if isinstance(e, int):
            return e
        left, right = exchanged(e.left), exchanged(e.right)
        return Operation(e.operator, *((right, left) if e.operator in "+*" else (left, right)))

    assert canonical(exchanged(a), "commutative") == canonical(a, "commutative")
    assert canonical(exchanged(a), "associative") == canonical(a, "associative")
    if canonical(a, "associative") == canonical(b, "associative"):
        assert value(a) == value(b) or None in (value(a), value(b))
