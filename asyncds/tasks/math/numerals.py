"""Numbers as they are written, exactly."""

import re
from fractions import Fraction

_MAX_EXPONENT = 400
_SIGNIFICANT = 6
_DECIMAL = r"\d+(?:\.\d*)?"
_PATTERNS = (
    # 12, 1.5
    rf"(?P<a>{_DECIMAL})",
    # 1/2, \frac{1}{2}, 3 1/2, 3\frac{1}{2}
    rf"(?:(?P<whole>\d+) )?(?P<above>-? ?{_DECIMAL}) ?/ ?(?P<below>{_DECIMAL})",
    rf"(?:(?P<whole>\d+) ?)?\\frac ?\{{ ?(?P<above>-? ?{_DECIMAL}) ?\}} ?"
    rf"\{{ ?(?P<below>{_DECIMAL}) ?\}}",
    # 1.2 \times 10^{-3}, 10^{5}
    rf"(?:(?P<a>{_DECIMAL}) ?(?:\\times|\\cdot|\*) ?)?10 ?\^ ?\{{? ?(?P<exponent>[+-]?\d+)"
    r" ?\}?",
    # 0.\overline{3}, 0.3\ldots is not one
    r"(?P<a>\d+\.\d*)\\(?:overline|bar|dot) ?\{?(?P<repeated>\d+)\}?",
)
_NUMERALS = tuple(re.compile(rf"(?P<sign>[-+]?) ?{pattern}") for pattern in _PATTERNS)


def numeral(text: str) -> Fraction | None:
    """The value of a number as people write it, or None.

    A decimal, a fraction, a mixed number, a power of ten or a repeating decimal.
    """
    for pattern in _NUMERALS:
        match = pattern.fullmatch(text.strip())
        if match:
            found = {name: part or "" for name, part in match.groupdict().items()}
            value = _value(found)
            return -value if value is not None and found["sign"] == "-" else value
    return None


def _value(found: dict[str, str]) -> Fraction | None:
    if "above" in found:
        below = Fraction(found["below"])
        whole, above = found["whole"], found["above"].replace(" ", "")
        if not below or (whole and above.startswith("-")):
            return None
        return Fraction(whole or 0) + Fraction(above) / below
    value = Fraction(found["a"] or 1)
    if "exponent" in found:
        exponent = int(found["exponent"][:9])
        return value * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None
    if "repeated" in found:
        places = len(found["a"].split(".")[1])
        repeated = Fraction(int(found["repeated"]), 10 ** len(found["repeated"]) - 1)
        return value + repeated / 10**places
    return value


def same_numeral(gold: str, given: str) -> bool | None:
    """Whether two numerals are equal; None where one is none.

    A decimal of six significant digits or more is also equal to what rounds to it.
    """
    left, right = numeral(gold), numeral(given)
    if left is None or right is None:
        return None
    return left == right or any(
        _significant(text) >= _SIGNIFICANT and rounds_to(other, text)
        for text, other in ((given, left), (gold, right))
    )


def rounds_to(value: Fraction, text: str) -> bool:
    """Whether the value is the decimal ``text``, rounded to its places."""
    decimal = re.fullmatch(r"[-+]? ?\d+(?:\.(\d*))?", text.strip())
    if decimal is None:
        return False
    shown = Fraction(text.replace(" ", ""))
    return abs(value - shown) * 2 * 10 ** len(decimal[1] or "") <= 1


def _significant(text: str) -> int:
    match = re.fullmatch(r"[-+]? ?(\d+)\.(\d+)", text.strip())
    return len((match[1] + match[2]).lstrip("0")) if match else 0
