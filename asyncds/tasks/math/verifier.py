"""Is the boxed answer of a completion the right one? math-verify decides."""

import logging
import re
from typing import Any

# sympy makes code from fixed tables when this is first imported: not while an answer is judged.
import sympy.physics.units  # noqa: F401

from asyncds.tasks.base import Score
from asyncds.tasks.math.guard import no_generated_code

try:
    from math_verify import LatexExtractionConfig, parse, verify
except ImportError as error:
    raise ImportError(
        "the task math needs the package math-verify: install `asyncds[math]`"
    ) from error

MAX_CHARACTERS = 1_000
"""A longer answer is none: no answer of the usual data sets is nearly as long."""

# It warns, once, that its own timeouts are off: they use SIGALRM, and the scorer has its own.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Of math-verify's ways to find an answer only the one that reads LaTeX: another evaluates text.
_BOXED = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
_TOKEN = re.compile(r"(\\f?box(?:ed)?\s*\{)|\\.|[{}]", re.DOTALL)


def score_boxed(completion: str, answer: str) -> Score:
    """Reward 1 if the last ``\\boxed{…}`` of the completion equals ``answer``, else 0.

    answer: LaTeX, or a text with a box of its own. All correct answers are one answer, whose
    canonical form is that of ``answer``; a wrong one has its own. No box, or one of more than 1,000
    characters: no answer. Raises whatever math-verify raises where it can't compare the two; may
    take any time and memory.
    """
    text = boxed(completion)
    if text is None or len(text) > MAX_CHARACTERS:
        return Score(0.0, False)
    solution = boxed(answer)
    with no_generated_code():
        right, given = _parse(answer if solution is None else solution), _parse(text)
        if not given:
            return Score(0.0, False)
        correct = _same_text(right, given) or verify(
            right, given, timeout_seconds=None, raise_on_error=True
        )
        return Score(float(correct), correct, (_canonical(right if correct else given),))


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` or ``\\fbox{…}`` that is closed, or None.

    Braces are counted, escaped ones aside; of nested boxes it is the outermost.
    """
    opened: list[int | None] = []
    found: str | None = None
    for token in _TOKEN.finditer(text):
        if token[1]:
            opened.append(token.end())
        elif token[0] == "{":
            opened.append(None)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start is not None:
                found = text[start : token.start()]
    return found


def _parse(latex: str) -> list[Any]:
    """A sympy expression, if it is one, and the normalised text; [] where there is neither."""
    found: list[Any] = parse(rf"\boxed{{{latex}}}", extraction_config=_BOXED, parsing_timeout=None)
    return found


def _same_text(right: list[Any], given: list[Any]) -> bool:
    return bool(right) and _squeezed(right) == _squeezed(given)


def _squeezed(parsed: list[Any]) -> str:
    return "".join(str(parsed[-1]).split())


def _canonical(parsed: list[Any]) -> str:
    return "".join(str(parsed[0]).split())
