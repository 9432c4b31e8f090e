"""No code is made from what a model wrote.

sympy turns expressions into Python to evaluate them numerically (``lambdify``), and the names of
symbols go into that source as they stand. math-verify takes such names from text, so that an answer
could run as a program. Every way from text to code goes through ``compile``, which Python reports
to audit hooks; ours refuses.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

# What sympy and mpmath compile besides: functions written out from templates over small numbers,
# the names that numbers are read with, and numbers in strings.
_HARMLESS = re.compile(
    rb"def .*|from sympy import \*|(?:[\s\d.,()+*/-]|\b(?:Integer|Float|Rational)\b|'[\d.e+-]*')*",
    re.DOTALL,
)
_guarded: ContextVar[bool] = ContextVar("guarded", default=False)


class GeneratedCodeError(RuntimeError):
    """Something tried to turn an expression or a text into code."""


@contextmanager
def no_generated_code() -> Iterator[None]:
    """Forbid ``compile``, ``eval`` and ``exec`` of generated code within the block.

    Of anything but a file and the libraries' own templates they raise GeneratedCodeError, in this
    thread or task alone.
    """
    _install()
    token = _guarded.set(True)
    try:
        yield
    finally:
        _guarded.reset(token)


@cache
def _install() -> None:
    # Python has no way to remove a hook: it stays, and does nothing outside the block.
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event != "compile" or not _guarded.get():
        return
    source, filename = args
    if not str(filename).startswith("<"):
        return
    text = source if isinstance(source, bytes) else str(source).encode()
    if str(filename).startswith("<lambdify") or not _HARMLESS.fullmatch(text):
        raise GeneratedCodeError("an answer is not evaluated as code")
