"""Boxes of LaTeX: which one holds the answer, and what stands in it."""

import re

_TOKEN = re.compile(r"(\\f?box(?:ed)?\s*\{)|\\.|[{}]", re.DOTALL)


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` or ``\\fbox{…}``.

    None if it is not closed, or there is none.

    Braces are counted, escaped ones aside; of nested boxes it is the outermost that is closed.
    """
    opened: list[int | None] = []
    found: str | None = None
    last_box = -1
    for token in _TOKEN.finditer(text):
        if token[1]:
            last_box = token.end()
            opened.append(last_box)
        elif token[0] == "{":
            opened.append(None)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start is not None:
                found = text[start : token.start()]
    return None if last_box in opened else found
