"""Are two answers the same? A list of deciders, each with one idea; the first that knows decides.

A decider gets two cleaned answers and returns True, False, or None where the pair is none of its
business. Those that take answers apart (choices, lists, chains of equalities, units) ask ``same``
about the parts.
"""

import re
from collections.abc import Callable

from asyncds.tasks.math import words
from asyncds.tasks.math.expressions import number, same_expression
from asyncds.tasks.math.intervals import is_region, regions
from asyncds.tasks.math.numerals import numeral, rounds_to, same_numeral
from asyncds.tasks.math.typography import clean, split, squeezed
from asyncds.tasks.math.units import Quantity, quantity, total_quantity, with_bare_letter

_MOST_ELEMENTS = 50

Decider = Callable[[str, str], bool | None]


def same_answer(gold: str, given: str) -> bool:
    """Whether an answer, as it stands in its box, is the right one.

    Raises what math-verify raises; may take any time and memory.
    """
    return same(clean(gold), clean(given))


def same(gold: str, given: str) -> bool:
    """``same_answer`` of cleaned answers."""
    if not gold or not given:
        return False
    for decide in _DECIDERS:
        verdict = decide(gold, given)
        if verdict is not None:
            return verdict
    return same_expression(gold, given)


def _text(gold: str, given: str) -> bool | None:
    return True if squeezed(gold) == squeezed(given) else None


def _choices(gold: str, given: str) -> bool | None:
    """``(B) 12`` is right by its letter or by what it says, and wrong if one of them is wrong."""
    left, right = words.choice(gold), words.choice(given)
    if left is None and right is None:
        return None
    if left and right:
        if not left[1] and not right[1] and gold[-1:] == gold and given[-1:] == given:
            return None
        return left[0] == right[0] and (
            not left[1] or not right[1] or same(clean(left[1]), clean(right[1]))
        )
    if left:
        return same(clean(left[1]), given) if left[1] else None
    return same(gold, clean(right[1])) if right and right[1] else None


def _lists(gold: str, given: str) -> bool | None:
    """Elements one by one: in order within ( ) and [ ], in any order within braces or none."""
    left, right = _elements(gold), _elements(given)
    if left is None and right is None:
        return None
    ordered = [part and part[0] not in ("", r"\{") for part in (left, right)]
    if any(ordered):
        if not all(ordered) or left is None or right is None or left[0] != right[0]:
            return None
        pairs = zip(left[1], right[1], strict=False)
        return len(left[1]) == len(right[1]) and all(same(a, b) for a, b in pairs)
    wanted = left[1] if left else [gold]
    found = right[1] if right else [given]
    if max(len(wanted), len(found)) > _MOST_ELEMENTS:
        return None
    if len(wanted) != len(found):
        return None if len(wanted) == 1 and r"\mathbb" in gold else False
    if len(wanted) == 1 and (wanted[0], found[0]) == (gold, given):
        return None
    for element in wanted:
        match = next((other for other in found if same(element, other)), None)
        if match is None:
            return False
        found = [other for other in found if other is not match]
    return True


def _regions(gold: str, given: str) -> bool | None:
    """Inequalities and intervals; of two inequalities the variables must be the same."""
    left, right = regions(gold), regions(given)
    if left and right:
        return (
            None
            if left[0] != right[0]
            else any(same_expression(a, b) for a in left[1] for b in right[1])
        )
    if left and is_region(given):
        return any(same_expression(region, given) for region in left[1])
    if right and is_region(gold):
        return any(same_expression(gold, region) for region in right[1])
    return None


def _bases(gold: str, given: str) -> bool | None:
    """The same digits in the same base, or without one."""
    left, right = _BASE.fullmatch(gold), _BASE.fullmatch(given)
    if left is None or right is None or not (left[2] or right[2]):
        return None
    return left[1] == right[1] and (left[2] == right[2] or not (left[2] and right[2]))


_BASE = re.compile(r"([0-9A-F]*[0-9][0-9A-F]*)(?:_\{(?:\\text\{)?(\w+)\}?\})?")


def _elements(text: str) -> tuple[str, list[str]] | None:
    """(brackets, elements) of a list or a set; None for anything else."""
    brackets = ""
    inner = text
    if text.startswith(r"\{") and text.endswith(r"\}") and _encloses(text):
        brackets, inner = r"\{", text[2:-2].strip()
    elif text[0] in "([" and text[-1] in ")]" and _encloses(text):
        brackets, inner = text[0] + text[-1], text[1:-1].strip()
    separators = (
        ",",
        ";",
        r"\\text\{ ?,? ?(?:and|or) ?\}",
        r"(?<=[\d )}]) ?\b(?:and|or)\b ?(?=[-\d (\\a-z])",
    )
    parts = [part.strip() for part in split(inner, separators)]
    parts = [element for part in parts if part for element in _plus_minus(part)]
    if brackets in ("()", "[]") and len(parts) == 1:
        return ("", parts) if brackets == "()" else None
    if not parts or (len(parts) == 1 and not brackets):
        return None
    if not all(brackets):
        return None
    unique = list({squeezed(part): part for part in parts}.values())
    return brackets, unique if brackets in ("", r"\{") else parts


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last character, of whatever shape."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ")]}":
            return i == len(text) - 1
    return False


def _plus_minus(text: str) -> list[str]:
    """Both values of ``1 \\pm 2``."""
    if text.count(r"\pm") != 1 or r"\mp" in text:
        return [text]
    return [re.sub(r"\\pm ?", sign, text) for sign in ("+", "-")]


_ARROW = re.compile(r"\\(?:Rightarrow|Leftrightarrow|therefore)(?![a-zA-Z])")
_NAME = re.compile(
    r"(?:\\(?:text|angle|triangle|overline|measuredangle|vec|hat)(?![a-zA-Z])|[a-zA-Z']|\\[a-z]+ ?"
    r"|[_{}() |\[\],]|\d(?=[\d,]*[)}\]])|(?<=_)\d|(?<=[\]}])\d)+"
)
_LETTERS = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Z]")
_CONSTANTS = frozenset(
    str.split(
        r"\pi \frac \sqrt \cdot \times \div \log \ln \sin \cos \tan \circ \infty \binom \exp \sum"
        r" \prod \overline \dollar \euro \pounds \yen \rupee \cent \text \pm \left \right \% e i"
    )
)


def _chains(gold: str, given: str) -> bool | None:
    """Sides of ``x = 2 + 3 = 5``, all of which must be right, but for the name in front.

    Sides may also be rounded values of the right one, as in ``x = 1/3 \\approx 0.33``.
    """
    given = _ARROW.split(given)[-1].strip()
    gold = _ARROW.split(gold)[-1].strip()
    wanted, sides = _sides(gold), _sides(given)
    if len(wanted) == 1 and len(sides) == 1:
        return None if given else False
    if not all(wanted) or not all(sides):
        return False
    if len(wanted) > 1:
        name, value = _named(wanted)
        if name is None:
            return None if len(sides) < 3 else False
        if len(sides) == 1:
            return same(value, given)
        other, _ = _named(sides)
        if other is not None and squeezed(other) != squeezed(name):
            return None if len(sides) == 2 else False
        if other is None and len(sides) == 2:
            return None
        gold = value
    return _all_sides(gold, sides)


def _all_sides(gold: str, sides: list[str]) -> bool:
    known = _letters(gold)
    if _is_name(sides[-1]) and not _is_name(sides[0]) and not _letters(sides[-1]) <= known:
        sides = sides[::-1]
    values = [
        side
        for i, side in enumerate(sides)
        if i == len(sides) - 1 or _letters(side) <= known or not (i == 0 or _is_name(side))
    ]
    right = [same(gold, value) for value in values]
    return any(right) and all(
        equal or _rounded(gold, value) for equal, value in zip(right, values, strict=True)
    )


def _sides(text: str) -> list[str]:
    return split(text, (r"(?<![<>!])=", r"\\approx(?![a-zA-Z])", r"\\equiv(?![a-zA-Z])"))


def _named(sides: list[str]) -> tuple[str | None, str]:
    """(name, value) of ``x = 5`` and ``5 = x``."""
    if _is_name(sides[0]):
        return sides[0], sides[-1]
    return (sides[-1], sides[0]) if _is_name(sides[-1]) else (None, sides[-1])


def _is_name(side: str) -> bool:
    return bool(_NAME.fullmatch(side)) and bool(_letters(side))


def _letters(text: str) -> frozenset[str]:
    found = frozenset(_LETTERS.findall(text)) - _CONSTANTS
    # The index of a sum is no letter of its value; a sum to n is left to whoever reads it.
    bound = frozenset(re.findall(r"\\(?:sum|prod) ?_\{ ?([a-z]) ?=", text))
    return found | {r"\sum"} if bound and found - bound else found - bound


def _rounded(gold: str, value: str) -> bool:
    left, right = numeral(gold), numeral(value)
    if left is None:
        left = number(gold)
    if right is None:
        right = number(value)
    if left is None or right is None:
        return False
    return rounds_to(left, value) or rounds_to(right, gold)


def _quantities(gold: str, given: str) -> bool | None:
    """The same value in the same unit, or without one; 50 % is 50 and 0.5."""
    left, right = quantity(gold), quantity(with_bare_letter(given))
    if (left.value, right.value) == (gold, given):
        return None
    if left.unit and right.unit:
        return left.unit.fits(right.unit) and _same_amount(left, right)
    if left.percent != right.percent:
        percent, other = (left, right) if left.percent else (right, left)
        hundredth = rf"\frac{{{percent.value}}}{{100}}"
        return any(same(other.value, value) for value in (percent.value, hundredth))
    if any(q.unit and q.unit.dimensions == (("angle", 1),) for q in (left, right)) and any(
        r"\pi" in q.value for q in (left, right) if not q.unit
    ):
        radians = quantity(r"1 \text{rad}").unit
        left, right = (q if q.unit else Quantity(q.value, radians) for q in (left, right))
        return _same_amount(left, right)
    return same(left.value, right.value)


def _totals(gold: str, given: str) -> bool | None:
    """``3 hours and 20 minutes`` is one quantity, not a list."""
    if total_quantity(gold) or total_quantity(given):
        return _quantities(gold, given)
    return None


def _same_amount(left: Quantity, right: Quantity) -> bool:
    assert left.unit is not None
    assert right.unit is not None
    ratio = right.unit.factor / left.unit.factor
    radians = right.unit.radians - left.unit.radians
    if ratio == 1 and not radians:
        return same(left.value, right.value)
    a, b = numeral(left.value), numeral(right.value)
    if a is not None and b is not None and not radians:
        return a == b * ratio
    pi = "" if not radians else r"\cdot \frac{1}{\pi}" if radians > 0 else r"\cdot \pi"
    return same_expression(
        left.value, rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}} \cdot ({right.value}) {pi}"
    )


_CONDITION = re.compile(
    r",? ?(?:\\text\{ ?(?:for (?:all|every|any|each)|where|when|if|for|with)\b.*"
    r"|\\forall(?![a-z]).*|\\pmod ?\{?\w+\}?|\(?\\?(?:text\{)?(?:bmod|mod)\}? ?\{?\d+\}?\)?"
    r"|(?<=[ ,])(?:for all|for every|for any|where|when) .*)$",
    re.DOTALL,
)


def _conditions(gold: str, given: str) -> bool | None:
    """``2n \\text{ for all } n`` is right without its condition, and the other way round."""
    left, right = _CONDITION.sub("", gold), _CONDITION.sub("", given)
    if (left == gold) == (right == given) or not left or not right:
        return None
    return same(left, right)


_VECTOR = re.compile(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", re.DOTALL)


def _vectors(gold: str, given: str) -> bool | None:
    """A tuple and a matrix of one row or one column are the same vector."""
    left, right = _VECTOR.fullmatch(gold), _VECTOR.fullmatch(given)
    matrix, other = (left, given) if left else (right, gold)
    elements = _elements(other)
    if matrix is None or elements is None or elements[0] not in ("()", "[]"):
        return None
    rows = [row.strip() for row in re.split(r"\\\\", matrix[1]) if row.strip()]
    if len(rows) > 1 and "&" in matrix[1]:
        return False
    parts = [part.strip() for row in rows for part in row.split("&")]
    return len(parts) == len(elements[1]) and all(map(same, elements[1], parts))


def _assignments(gold: str, given: str) -> bool | None:
    """The point (3, 4) and ``x = 3, y = 4``, in the order of the names."""
    left, right = _elements(gold), _elements(given)
    if left is None or right is None or {left[0], right[0]} != {"", "()"}:
        return None
    point, named = (left[1], right[1]) if left[0] else (right[1], left[1])
    sides = sorted(_sides(element) for element in named)
    if any(len(pair) != 2 or not _is_name(pair[0]) for pair in sides):
        return None
    if len({pair[0] for pair in sides}) != len(point) or len(sides) != len(point):
        return None
    values = [pair[1] for pair in sides]
    return all(map(same, point, values) if left[0] else map(same, values, point))


_DECIDERS: tuple[Decider, ...] = (
    _text,
    _choices,
    words.same_date,
    _conditions,
    _regions,
    _vectors,
    _assignments,
    _totals,
    _lists,
    _chains,
    words.same_words,
    _bases,
    _quantities,
    same_numeral,
)
