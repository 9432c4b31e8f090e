"""Values with units: ``5 \\text{ cm}^2`` is 5 and square centimetres.

A unit that is missing on one side is no difference; another unit is, unless it measures the same
and the values agree once converted. Words that are no unit (people, apples) count as one.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_Dimensions = tuple[tuple[str, int], ...]

# dimension: {factor to its base unit: names}
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter metre", "1/1000": "mm millimeter millimetre", "1/100": "cm centimeter"
        " centimetre", "1/10": "dm decimeter decimetre", "1000": "km kilometer kilometre",
        "0.0254": "in inch", "0.3048": "ft foot feet", "0.9144": "yd yard",
        "1609.344": "mi mile", "1/1000000": "micrometer micron", "1/1000000000": "nm nanometer",
    },
    "mass": {
        "1": "g gram gm gramme", "1/1000": "mg milligram", "1000": "kg kilogram kilo",
        "453.59237": "lb pound", "28.349523125": "oz ounce", "1000000": "tonne",
    },
    "time": {
        "1": "s sec second", "60": "min minute", "3600": "h hr hour", "86400": "day",
        "604800": "week wk", "1/1000": "ms millisecond",
    },
    "calendar": {"1": "month", "12": "year yr"},
    "volume": {
        "1": "l liter litre", "1/1000": "ml milliliter millilitre cc", "3.785411784": "gal gallon",
        "1/100": "cl centiliter centilitre",
    },
    "angle": {"1": "degree deg", "1/60": "arcminute", "180/pi": "rad radian"},
    "temperature": {"1": "celsius"}, "fahrenheit": {"1": "fahrenheit"}, "kelvin": {"1": "kelvin"},
    "dollar": {"1": "dollar usd", "1/100": "cent"}, "euro": {"1": "euro eur"},
    "sterling": {"1": "gbp sterling"}, "yen": {"1": "yen jpy"}, "rupee": {"1": "rupee inr rs"},
    "force": {"1": "n newton"}, "energy": {"1": "j joule", "1000": "kj kilojoule",
    "4.184": "calorie cal"}, "power": {"1": "w watt", "1000": "kw kilowatt"},
    "voltage": {"1": "v volt"}, "current": {"1": "ampere amp"}, "resistance": {"1": "ohm"},
    "pressure": {"1": "pa pascal", "1000": "kpa"}, "frequency": {"1": "hz hertz"},
    "area": {"1": "hectare ha", "0.40468564224": "acre"}, "amount": {"1": "mol mole"},
}  # fmt: skip
_UNITS = {
    name: (dimension, factor)
    for dimension, factors in _TABLE.items()
    for factor, names in factors.items()
    for name in names.split()
}
_COMPOUND = {
    "mph": "mile per hour", "kmh": "km per hour", "kph": "km per hour", "kmph": "km per hour",
    "bucks": "dollars", "pence": "pennies", "sq": "square", "cu": "cubic", "squared": "square",
    "cubed": "cubic", "sqft": "square feet", "kgs": "kg", "hrs": "hr", "mins": "min", "lbs": "lb",
    "secs": "sec", "yrs": "yr",
}  # fmt: skip
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot",
    "inches": "inch", "geese": "goose", "mice": "mouse", "teeth": "tooth", "dice": "die",
    "pennies": "penny", "boxes": "box", "hertz": "hertz", "celsius": "celsius",
}  # fmt: skip
_IGNORED = frozenset(
    str.split(
        "unit units total of the a an and only altogether all there are is left about each long"
        " wide high tall deep approximately approx answer"
    )
)
_BARE_UNITS = "|".join(
    sorted(
        (f"{n}s?" for n in (*_UNITS, *_COMPOUND, "USD", "EUR", "GBP", "INR") if len(n) > 1),
        key=len,
        reverse=True,
    )
)
_POWER = r"(?: ?\^ ?(?:\{ ?-?\d ?\}|-?\d))?"
_PER = rf"(?: ?/ ?([a-zA-Z]+)({_POWER}))?"
_PIECE = rf"(?:\\text\{{[^{{}}]*\}}{_POWER}|\\(?:dollar|euro|pounds|yen|rupee|cent)(?![a-zA-Z]))"
_SUFFIX = re.compile(
    r"^(?P<value>.*?[^\s,;(=+*/^-]) ?"
    rf"(?P<unit>{_PIECE}(?: ?(?:/|\\cdot|\\times|\.)? ?\(?{_PIECE}\)?)*)$",
    re.DOTALL,
)
_PREFIX = re.compile(
    r"^(?P<sign>-?) ?(?:\\text\{US\}|US)? ?(?P<unit>\\(?:dollar|euro|pounds|yen|rupee)"
    r"|(?:\\text\{)?(?:USD|EUR|GBP|INR|Rs)\}?)(?![a-zA-Z])\.? ?(?P<value>[\d\\({.].*)$",
    re.DOTALL,
)
_PERCENT = re.compile(r"(.+?) ?(?:\\?%|\\text\{(?:percent|percentage|pct)\})", re.DOTALL)
_DEGREE = r" ?\^ ?\{? ?\\circ ?\}? ?"
_DEGREES = (
    (re.compile(_DEGREE + r"(?:\\text\{)?C\}?$"), r"\\text{celsius}"),
    (re.compile(_DEGREE + r"(?:\\text\{)?F\}?$"), r"\\text{fahrenheit}"),
    (re.compile(_DEGREE + "$"), r"\\text{degree}"),
)
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_QUOTIENT = re.compile(r"\\frac ?\{ ?(\\text\{[^{}]*\}) ?\}\{ ?(\\text\{[^{}]*\}[^{}]*)\}$")
_NUMBER = r"-?(?:[\d./ ]*\d|(?:\d+ )?\\frac\{[\d.]+\}\{[\d.]+\})"
# Units without \text: names after any value; single letters, and unknown words, after a number and
# a space only: `3 + 2s` has a variable.
_BARE = (
    re.compile(rf"(.*[\d}})]) ?({_BARE_UNITS})({_POWER}){_PER}", re.DOTALL),
    re.compile(rf"({_NUMBER}) ([mgshlL])({_POWER}){_PER}"),
    re.compile(rf"((?:\\[a-z]+ )?{_NUMBER}) ([a-zA-Z][a-z]+(?:[ -][a-z]+)*)()()()"),
)
_PAIR = re.compile(r" ?(?:\\text\{and\}|,)? ?([\d.]+) ?(\\text\{[^{}]*\})")
_BOUNDS = frozenset(
    str.split(
        "not no least most less more than greater fewer over under minus negative half up to below"
        " above or and if for where when with base mod"
    )
)


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit that a value is measured in.

    dimensions: powers of what is measured, such as (("length", 2),). factor: to its base units;
    None with a radian among them. nouns: words that are no unit of measurement.
    """

    dimensions: _Dimensions
    factor: Fraction
    nouns: frozenset[str] = frozenset()
    radians: int = 0

    def fits(self, other: "Unit") -> bool:
        """Whether both measure, or count, the same."""
        return self.dimensions == other.dimensions and (
            self.nouns <= other.nouns or other.nouns <= self.nouns
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value in LaTeX; its unit, if it has one; whether it is in percent."""

    value: str
    unit: Unit | None
    percent: bool = False


def quantity(text: str) -> Quantity:
    """The value and the unit of an answer that ``typography.clean`` has cleaned."""
    text = with_marked_units(text)
    if match := _PERCENT.fullmatch(text):
        return Quantity(match[1], None, percent=True)
    if total := total_quantity(text):
        return total
    if (match := _PREFIX.match(text)) and (unit := _unit(match["unit"])):
        rest = quantity(match["value"])
        if rest.unit is None or rest.unit.fits(unit):
            return Quantity(match["sign"] + rest.value, unit)
    if (match := _SUFFIX.match(text)) and (unit := _unit(match["unit"])):
        return Quantity(match["value"].strip(), unit if unit.dimensions or unit.nouns else None)
    return Quantity(text, None)


def with_marked_units(text: str) -> str:
    """Units and other words after a number in ``\\text{…}``: degrees, ``5 cm``, ``5 people``."""
    if not _ANGLE_OF.search(text):
        for pattern, unit in _DEGREES:
            text = pattern.sub(unit, text)
    text = _QUOTIENT.sub(r"\1/\2", text)
    for bare in _BARE:
        if match := bare.fullmatch(text):
            value, unit, power, below, power_below = match.groups()
            per = rf"/\text{{{below}}}{power_below}" if below else ""
            return rf"{value} \text{{{unit}}}{power}{per}"
    return text


def with_bare_letter(text: str) -> str:
    """``5m`` as 5 metres: the reading of an answer where a number is asked for."""
    return re.sub(r"^(-?[\d.]+)([mgshlL])$", r"\1 \2", text)


def total_quantity(text: str) -> Quantity | None:
    """``3 hours 20 minutes`` in the base unit; None for anything else."""
    pairs = _PAIR.findall(text)
    units = [_unit(unit) for _, unit in pairs]
    if len(pairs) < 2 or _PAIR.sub("", text).strip() or None in units:
        return None
    known = [unit for unit in units if unit]
    if any(not u.dimensions or not u.fits(known[0]) or u.radians for u in known):
        return None
    total = sum(Fraction(n) * u.factor for (n, _), u in zip(pairs, known, strict=True))
    value = rf"\frac{{{total.numerator}}}{{{total.denominator}}}"
    return Quantity(value, Unit(known[0].dimensions, Fraction(1)))


def _unit(text: str) -> Unit | None:
    """The unit that pieces of text, powers and slashes make; None for words that aren't one."""
    dimensions: dict[str, int] = {}
    factor, nouns, radians = Fraction(1), set[str](), 0
    sign, power = 1, 1
    for word, exponent in _pieces(text):
        if word in ("per", "/"):
            sign = -1
        elif word in ("square", "cubic"):
            power = 2 if word == "square" else 3
        elif word in _BOUNDS:
            return None
        elif word not in _IGNORED:
            known = _UNITS.get(word)
            if known is None:
                nouns.add(word)
            else:
                n = sign * power * exponent
                name, amount = known
                dimensions[name] = dimensions.get(name, 0) + n
                if amount.endswith("pi"):
                    factor, radians = factor * 180**n, radians + n
                else:
                    factor *= Fraction(amount) ** n
            power = 1
    volume = dimensions.pop("volume", 0)
    area = dimensions.pop("area", 0)
    length = dimensions.pop("length", 0) + 3 * volume + 2 * area
    factor *= Fraction(1, 1000) ** volume * Fraction(10_000) ** area
    if length:
        dimensions["length"] = length
    ordered = tuple(sorted((name, n) for name, n in dimensions.items() if n))
    return Unit(ordered, factor, frozenset(nouns), radians)


def _pieces(text: str) -> list[tuple[str, int]]:
    """(word, power) in turn; words are lower-case and singular."""
    found: list[tuple[str, int]] = []
    for match in re.finditer(r"\\text\{([^{}]*)\} ?(?:\^ ?\{? ?(-?\d) ?\}?)?|\\([a-z]+)|(/)", text):
        if match[4]:
            found.append(("/", 1))
        elif match[3]:
            found.append((_CURRENCIES.get(match[3], match[3]), 1))
        else:
            raw = re.findall(r"[a-zA-Z]+", match[1])
            words = [part for word in raw for part in _COMPOUND.get(word.lower(), word).split()]
            singular = [_singular(word) for word in words]
            found += [(word, 1) for word in singular]
            if match[2] and singular:
                found[-1] = (singular[-1], int(match[2]))
            if singular and singular[-1] in ("square", "cubic") and len(singular) > 1:
                # "meters squared"
                found[-2:] = [(singular[-1], 1), (singular[-2], 1)]
    return [pair for pair in found if pair[0] not in ("cdot", "times")]


_CURRENCIES = {"pounds": "sterling"}


def _singular(word: str) -> str:
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _UNITS or word in _IGNORED or word in _BOUNDS:
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("es", "s"):
        stem = word.removesuffix(ending)
        if stem in _UNITS:
            return stem
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
