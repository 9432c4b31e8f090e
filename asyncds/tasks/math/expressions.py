"""Expressions, which math-verify compares: the place where answers become sympy's."""

import logging
import re
from fractions import Fraction
from typing import Any

# sympy makes code from fixed tables when this is first imported: not while an answer is judged.
import sympy.physics.units  # noqa: F401
from sympy import Intersection

try:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
except ImportError as error:
    raise ImportError(
        "the task math needs the package math-verify: install `asyncds[math]`"
    ) from error

_TOLERANCE = 1e-6

# It warns, once, that its own timeouts are off: they use SIGALRM, and the scorer has its own.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Of math-verify's ways to find an answer only the one that reads LaTeX: another evaluates text.
# Its removal of units is off: it takes `+ 3c` for a unit of 3.
_BOXED = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
        ),
    )
]
# Two numbers with nothing between them, which are no product and no sum; 3 1/2 and 3 \frac12 are.
_JUXTAPOSED = re.compile(r"\d \d+(?! ?/|\d)|\d ?\{")


def same_expression(gold: str, given: str) -> bool:
    """Whether math-verify counts two LaTeX expressions as equal; raises what it raises.

    Two numbers side by side are no expression. What it calls equal because decimals were rounded to
    six places must also be so relative to its size: 0.000001 is not 0.0000012.
    """
    if _JUXTAPOSED.search(gold) or _JUXTAPOSED.search(given):
        return False
    left, right = parsed(gold), parsed(given)
    equal: bool = bool(left and right) and verify(
        left,
        right,
        timeout_seconds=None,
        raise_on_error=True,
        allow_set_relation_comp=True,
    )
    return equal and _close(left[0], right[0])


def parsed(latex: str) -> list[Any]:
    """A sympy expression, if it is one, and the normalised text; [] where there is neither."""
    found: list[Any] = parse(rf"\boxed{{{latex}}}", extraction_config=_BOXED, parsing_timeout=None)
    # As it is parsed, an intersection of intervals is equal to no interval.
    return [part.doit() if isinstance(part, Intersection) else part for part in found]


def canonical(latex: str) -> str:
    """A form that is equal for answers written alike, or read as the same expression."""
    found = parsed(latex)
    return "".join(str(found[0]).split()) if found else "".join(latex.split())


def number(latex: str) -> Fraction | None:
    """The value of an expression without variables, to 15 digits; None where it has none."""
    found = parsed(latex)
    try:
        return Fraction(str(found[0].evalf(15))) if found and not found[0].free_symbols else None
    except (AttributeError, TypeError, ValueError):
        return None


def _close(left: Any, right: Any) -> bool:
    try:
        a, b = float(left), float(right)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return True
    return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b)) or abs(a - b) * 100 in (
        abs(a) * 99,
        abs(b) * 99,
    )
