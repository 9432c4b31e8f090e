"""Inequalities of one variable as the intervals that they describe: ``1 \\le x < 2`` is [1, 2)."""

import re

from asyncds.tasks.math.typography import split

_OR = (r"\\text\{ ?or ?\}", r"\\lor(?![a-z])", r"\\vee(?![a-z])", r"(?<![a-zA-Z\\])or(?![a-zA-Z])")
_AND = (
    r"\\text\{ ?and ?\}",
    r"\\land(?![a-z])",
    r"\\wedge(?![a-z])",
    r"(?<![a-zA-Z\\])and(?![a-zA-Z])",
)
_COMMA = (",", ";")
_SIGNS = {"<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", "<=": "<=", ">=": ">=", r"\ne": "!="}
_SIGN = re.compile(r" ?(<=|>=|<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])) ?")
_VARIABLE = re.compile(r"[a-zA-Z]|\\[a-z]+|[a-zA-Z]_\{?\w\}?|f\(x\)")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_REGION = re.compile(r"[(\[].*[)\]]|\\mathbb ?\{?R\}?.*|.*\\(?:cup|cap)(?![a-z]).*", re.DOTALL)
_BUILDER = re.compile(
    r"\\\{ ?[a-zA-Z] ?(?:\\in ?\\mathbb ?\{?R\}?)? ?(?::|\|) ?(.*?) ?\\\}", re.DOTALL
)


def regions(text: str) -> tuple[str, list[str]] | None:
    """(variable, the readings as intervals) of inequalities; None for anything else.

    Inequalities with "or" between them are united, with "and" intersected, with a comma either.
    """
    if builder := _BUILDER.fullmatch(text):
        text = builder[1]
    for separators, joints in (
        (_OR, (r"\cup ",)),
        (_AND, (r"\cap ",)),
        (_COMMA, (r"\cup ", r"\cap ")),
    ):
        parts = split(text, separators)
        if len(parts) > 1:
            found = [_region(part) for part in parts if part]
            names = {part[0] for part in found if part}
            if len(names) != 1 or None in found:
                return None
            sets = [part[1] for part in found if part]
            return names.pop(), [joint.join(sets) for joint in joints]
    region = _region(text)
    return (region[0], [region[1]]) if region else None


def is_region(text: str) -> bool:
    """Whether a text may be an interval, or made of intervals."""
    return bool(_REGION.fullmatch(text))


def _region(text: str) -> tuple[str, str] | None:
    pieces = _SIGN.split(text.strip())
    sides, signs = pieces[::2], [_SIGNS[sign] for sign in pieces[1::2]]
    names = [
        i for i, side in enumerate(sides) if _VARIABLE.fullmatch(side) and side not in _NUMBERS
    ]
    if len(names) != 1 or not all(sides) or any(_unknown(s) for s in sides if s != sides[names[0]]):
        return None
    name = sides[names[0]]
    if len(sides) == 2:
        sign, bound = signs[0], sides[1 - names[0]]
        if sign == "!=":
            return name, rf"(-\infty, {bound})\cup ({bound}, \infty)"
        return name, _ray(sign if names[0] == 0 else _FLIPPED[sign], bound)
    if len(sides) == 3 and names[0] == 1 and "!=" not in signs:
        (low, high), (first, second) = (sides[0], sides[2]), signs
        if first[0] == second[0] == ">":
            low, high, first, second = high, low, _FLIPPED[second], _FLIPPED[first]
        if first[0] == second[0] == "<":
            return (
                name,
                f"{'[' if '=' in first else '('}{low}, {high}{']' if '=' in second else ')'}",
            )
    return None


_NUMBERS = frozenset((r"\pi", r"\infty", "e"))


def _unknown(bound: str) -> bool:
    return bool(re.search(r"(?<![a-zA-Z\\])[a-df-zA-Z](?![a-zA-Z])|\|", bound))


def _ray(sign: str, bound: str) -> str:
    ends = {
        "<": rf"(-\infty, {bound})",
        "<=": rf"(-\infty, {bound}]",
        ">": rf"({bound}, \infty)",
        ">=": rf"[{bound}, \infty)",
    }
    return ends[sign]
