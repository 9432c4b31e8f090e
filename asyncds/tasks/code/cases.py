"""The cases of a row, as data sets have them: inputs with outputs, or unit tests."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asyncds.tasks.data import text


def found(columns: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of ``outer.inner``: a field of a structure, or of each in a list.

    Structures and lists may be written as JSON. None where there is nothing.
    """
    if name in columns:
        return _read(columns[name])
    value: Any = columns
    for part in name.split("."):
        value = _read(value)
        if isinstance(value, list):
            value = [one.get(part) if isinstance(one, Mapping) else None for one in value]
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return _read(value)


def stdin_cases(inputs: Any, outputs: Any, where: str) -> list[list[str]]:
    """Pairs of an input and what is printed for it. Raises ValueError where they are none."""
    given, wanted = _texts(inputs, where), _texts(outputs, where)
    if not given or len(given) != len(wanted):
        raise ValueError(
            f"{where} has {len(given)} inputs and {len(wanted)} outputs: a case needs one of each"
        )
    return [*map(list, zip(given, wanted, strict=True))]


def unit_tests(tests: Any, where: str) -> list[str]:
    """Texts of Python. Raises ValueError where there is none."""
    read = [one for one in _texts(tests, where) if one.strip()]
    if not read:
        raise ValueError(f"{where} has no unit tests")
    return read


def _texts(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [_text(one, where) for one in values]


def _text(value: Any, where: str) -> str:
    """A text as it stands; a list is its lines, a number as it is written."""
    if isinstance(value, str):
        return value
    try:
        return "\n".join(map(text, value)) if isinstance(value, Sequence) else text(value)
    except ValueError as error:
        raise ValueError(f"{where} has a case that is no text: {error}") from None


def _read(value: Any) -> Any:
    """A structure or a list that is written as JSON, read; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
