"""The judgement of a program: it is run on the cases of its row."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from asyncds.sandbox.sandbox import Ran, Sandbox
from asyncds.sandbox.sandbox import Reason as Ended

Reason = Literal["wrong"] | Ended
"""Why a case does not hold: the program printed something else, or did not end well."""
REASONS: tuple[str, ...] = ("wrong", *get_args(Ended))
_HARNESS = Path(__file__).with_name("harness.py").read_text()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How many cases hold, of how many, and why the first that does not, does not."""

    held: int
    cases: int
    reason: Reason | None

    @property
    def share(self) -> float:
        return self.held / self.cases


class Judge:
    """Runs programs on cases: pairs of an input and an output, or unit tests.

    seconds: longest time for all cases of a program. to_the_end: cases are run after one that does
    not hold, too.
    """

    def __init__(self, sandbox: Sandbox, *, seconds: float, to_the_end: bool) -> None:
        self._sandbox = sandbox
        self._seconds = seconds
        self._to_the_end = to_the_end

    def judge(self, program: str, cases: Sequence[Sequence[str] | str]) -> Judged:
        """Raises what ``Sandbox.run`` raises."""
        end = time.monotonic() + self._seconds
        held, reason = 0, None
        for case in cases:
            why = self._run(program, case, left=end - time.monotonic())
            held += why is None
            reason = reason or why
            if reason is not None and not self._to_the_end:
                break
        return Judged(held=held, cases=len(cases), reason=reason)

    def _run(self, program: str, case: Sequence[str] | str, *, left: float) -> Reason | None:
        if left <= 0:
            return "timeout"
        if isinstance(case, str):
            return self._test(program, case, left)
        stdin, wanted = case
        ran = self._sandbox.run(program, stdin=stdin, seconds=left)
        return ran.reason or (None if _lines(ran.output) == _lines(wanted) else "wrong")

    def _test(self, program: str, test: str, left: float) -> Reason | None:
        word = secrets.token_hex(16)
        stdin = f"{json.dumps(program)}\n{json.dumps([test, word])}\n"
        ran = self._sandbox.run(_HARNESS, stdin=stdin, seconds=left)
        if ran.reason == "crash" and _says_wrong(ran):
            return "wrong"
        return ran.reason or (None if ran.output.endswith(f"\n{word}\n") else "wrong")


def _says_wrong(ran: Ran) -> bool:
    return ran.errors.rstrip().rpartition("\n")[2].startswith("AssertionError")


def _lines(text: str) -> list[list[str]]:
    """Words by line; spaces, and empty lines at the end, make no difference."""
    return [line.split() for line in text.strip().splitlines()]
