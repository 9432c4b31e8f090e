"""The reward `exact`: the answer is written as it should be."""

import re
from typing import Any

from asyncds.tasks.data import text


def exact(
    completion: str, answer: Any, pattern: str | None = None, ignore_case: bool = False
) -> dict[str, Any]:
    """1 if the completion is the answer, but for spaces, else 0.

    pattern: a regular expression; what its last match has in its first group is what is compared,
    or the whole match where it has no group. ignore_case: of letters.
    """
    given: str | None = completion
    if pattern is not None:
        *_, last = (None, *re.finditer(pattern, completion, re.DOTALL))
        given = None if last is None else last[1 if last.re.groups else 0] or ""
    if given is None:
        return {"reward": 0.0, "correct": False}
    said, right = (" ".join(t.split()) for t in (given, text(answer)))
    if ignore_case:
        said, right = said.casefold(), right.casefold()
    return {"reward": float(said == right), "correct": said == right, "answer": said}
