"""Answers that are words, labels, choices or dates: compared as such, never as products of letters.

A run of letters without a sign between them is a product of variables, a label or a word:

* more than one capital (``ABC``, ``NO``): a label. Order counts, but a segment and an angle are the
  same read backwards.
* small letters: a product if they are variables that go together: two letters, or three or four
  without a vowel, or of one part of the alphabet (``xyz``, ``abc``, ``lwh``). Otherwise a word.
* anything in ``\\text{…}`` or with one capital in front: a word.
"""

import re
from math import gcd

from asyncds.tasks.math.typography import squeezed

_FUNCTIONS = frozenset(
    str.split(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp det gcd lcm max min"
        " mod sqrt pi inf infinity lim deg dim ker arg sup"
    )
)
_SHORT_WORDS = frozenset(str.split("no on in if of to us we or is it so by up"))
_FAMILIES = tuple(map(frozenset, ("abcd", "fgh", "ijk", "klmn", "pqrst", "uvwxyz")))
_SYNONYMS = {
    r"\emptyset": "no solution", r"\{\}": "no solution", "empty set": "no solution",
    "no solutions": "no solution", "no real solutions": "no solution",
    "no real solution": "no solution", "none": "no solution", "dne": "does not exist",
    "undef": "undefined", "not defined": "undefined", r"\mathbb{R}": "all real numbers",
    "all reals": "all real numbers", "all real": "all real numbers",
    "infinitely many": "infinitely many solutions", "t": "true", "f": "false",
}  # fmt: skip
_RUN = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}(?![a-zA-Z])")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_LABEL = re.compile(r"(\\(?:overline|angle|triangle|overrightarrow|vec) ?)?\{?(?:\\text\{)?"
                    r"([A-Z]{2,}|[A-Z](?: [A-Z])+)\}?\}?")  # fmt: skip
_REVERSIBLE = (r"\overline", r"\angle")


def is_product(run: str) -> bool:
    """Whether a run of two or more letters is read as a product of variables."""
    if not run.islower():
        return len(run) == 2 and run[1].isupper() and run[0].islower()
    if run in _SHORT_WORDS:
        return False
    letters = frozenset(run)
    return (
        len(run) == 2
        or (len(run) <= 4 and not letters & frozenset("aeiou"))
        or any(letters <= family for family in _FAMILIES)
    )


def same_words(gold: str, given: str) -> bool | None:
    """Whether two answers are the same words or labels; None where neither is any."""
    left, right = label(gold), label(given)
    if left and right:
        return left[1] == right[1] or (
            left[1] == right[1][::-1] and any(kind[0] in _REVERSIBLE for kind in (left, right))
        )
    if _synonym(gold) and _synonym(given):
        return _canonical(gold) == _canonical(given)
    if (words := _words(gold)) is None and _words(given) is None:
        return None
    if words is None and not _RUN.search(gold) and not _synonym(gold):
        # A number is not a word; but `\text{x}` is x.
        return None if len(_words(given) or "") == 1 else False
    return _canonical(gold) == _canonical(given)


def label(text: str) -> tuple[str, str] | None:
    """(what is in front, letters) of a label such as ``ABC``, ``\\angle ABC``."""
    match = _LABEL.fullmatch(text)
    return ((match[1] or "").strip(), squeezed(match[2])) if match else None


def _words(text: str) -> str | None:
    """The words of an answer that has nothing else, or None."""
    plain = _TEXT.sub(r" \1 ", text)
    if not re.fullmatch(r"[a-zA-Z\s'.,;:!()-]*[a-zA-Z][a-zA-Z\s'.,;:!()-]*", plain):
        return None
    in_text = _TEXT.fullmatch(text) is not None
    runs = _RUN.findall(plain)
    if re.fullmatch(r"[a-zA-Z]", plain.strip()):
        return plain.strip() if in_text else None
    if not in_text and all(run in _FUNCTIONS or is_product(run) for run in runs):
        return None
    # An expression: f(x), (x, y), 2 letters with a sign between them.
    signs = not in_text and re.search(r"[a-zA-Z]\(|[a-zA-Z] ?[-!] ?|-[a-zA-Z]", plain)
    return None if signs and not re.search(r"[a-zA-Z]{3,}", plain) else plain


def _synonym(text: str) -> bool:
    return squeezed(text) in (r"\emptyset", r"\{\}", r"\mathbb{R}")


def _canonical(text: str) -> str:
    if _synonym(text):
        return _SYNONYMS[squeezed(text)]
    plain = _TEXT.sub(r" \1 ", text).casefold()
    words = re.sub(r"[^a-z0-9]+", " ", plain).split()
    joined = " ".join(word for word in words if word not in ("a", "an", "the") or len(words) == 1)
    return _SYNONYMS.get(joined, joined)


_CHOICE = re.compile(
    r"(?:\\text\{)?(?:(?:option|choice|answer)\s+)?\}?\s*"
    r"(?:\(\s*(?:\\text\{)?([A-Ja-j])\}?\s*\)|(?:\\text\{)?([A-J])\}?\s*[).:]|"
    r"(?:\\text\{)(?:option|choice|answer)\s+([A-J])\})\s*(.*)",
    re.IGNORECASE | re.DOTALL,
)


def choice(text: str) -> tuple[str, str] | None:
    """(letter, what is chosen) of ``(B) 12``, ``B. 12``, ``(B)`` or ``option B``; or None.

    ``(A)(B)`` and ``(A) + 1`` are expressions.
    """
    match = _CHOICE.fullmatch(text)
    if match is None:
        single = re.fullmatch(r"(?:\\text\{)?([A-Ja-j])\}?", text)
        return (single[1].upper(), "") if single else None
    rest = match[4].strip()
    if re.match(r"[-+*/^_=<>(!,]", rest) and not re.match(r"-\d", rest):
        return None
    return (match[1] or match[2] or match[3]).upper(), rest


_MONTHS = str.split(
    "january february march april may june july august september october november december"
)
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" for month in _MONTHS) + "|sept"
_ISO = re.compile(r"([12]\d{3})([-/.])(\d{1,2})\2(\d{1,2})")
_SLASHES = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2([12]\d{3})")
_YEARS = re.compile(r"([12]\d{3}) ?(?:-|to) ?([12]\d{3})")
_NAMED = re.compile(
    rf"(?:(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? )?(?P<month>{_MONTH})\.?"
    r"(?: (?P<day2>\d{1,2})(?:st|nd|rd|th)?)?(?:,? (?P<year>[12]\d{3}))?",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(\d{1,2})(?::(\d\d))?(?::(\d\d))? ?(a\.?m|p\.?m)?(?:\.)?(?: o'clock)?", re.IGNORECASE
)


def date_or_time(text: str, *, like: bool = False, gold: bool = False) -> tuple[object, ...] | None:
    """The value of a date or a time of the day, or None.

    ``2024-01-01``, ``1/2/2024``, ``March 1, 2024``, ``3:05 pm``, ``09:30``. like: of an answer to
    a question for a time, so that ``9:20`` is one too, which is a ratio otherwise. gold: of a right
    answer, which as a ratio would be in lowest terms: ``9:30`` is none.
    """
    plain = " ".join(_TEXT.sub(r" \1 ", text).replace(r"\div", "/").split())
    plain = re.sub(r" (?=[,.])|(?<=\d) (?=(?:st|nd|rd|th)\b)", "", plain)
    if (match := _ISO.fullmatch(plain)) and _is_day(int(match[3]), int(match[4])):
        return "date", int(match[1]), int(match[3]), int(match[4])
    if match := _YEARS.fullmatch(plain):
        return "years", *match.groups()
    if match := _SLASHES.fullmatch(plain):
        first, second = int(match[1]), int(match[3])
        if _is_day(first, second):
            return "date", int(match[4]), first, second
        if _is_day(second, first):
            return "date", int(match[4]), second, first
    if match := _NAMED.fullmatch(plain):
        day = match["day"] or match["day2"]
        if day or match["year"]:
            month = next(i for i, m in enumerate(_MONTHS, 1) if m[:3] == match["month"][:3].lower())
            return "date", int(match["year"] or 0), month, int(day or 0)
    match = _TIME.fullmatch(plain)
    if match and (match[2] or match[4]):
        hour, minute, half = int(match[1]), int(match[2] or 0), (match[4] or "")[:1].lower()
        sure = half or match[3] or match[1][0] == "0" or (match[2] or "")[:1] == "0"
        sure = sure or (gold and gcd(hour, minute) > 1)
        if (sure or like) and hour < 25 and minute < 60:
            return "time", hour, minute, int(match[3] or 0), half
    return None


def same_date(gold: str, given: str) -> bool | None:
    """Whether two dates or times are the same; None where neither is any.

    A missing year, or a missing a.m. or p.m., is no difference.
    """
    left, right = date_or_time(gold, gold=True), date_or_time(given)
    if left is None and right is None:
        return None
    left = left or date_or_time(gold, like=True)
    right = right or date_or_time(given, like=True)
    if left is None or right is None or left[0] != right[0]:
        return False
    optional = {"date": 1, "time": 4}.get(str(left[0]))
    return all(
        a == b or (i == optional and not (a and b))
        for i, (a, b) in enumerate(zip(left, right, strict=True))
    )


def _is_day(month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= 31
