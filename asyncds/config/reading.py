"""YAML as people mean it: numbers such as `1e-4`, text that stays text, and no key twice."""

import re
from pathlib import Path
from typing import Any

import yaml

MOST_VALUES, DEEPEST = 100_000, 64
"""Of a file, with every alias counted as often as it is used: more is a mistake, or a trap."""

_MERGE = "tag:yaml.org,2002:merge"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# YAML 1.1 reads `1e-4` as text, `010` as 8, `1:30` as 90 and `2024-01-01` as a date.
_NUMBERS = {
    _INT: re.compile(r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F]+)$"),
    _FLOAT: re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|[-+]?\d[\d_]*[eE][-+]?\d+$"
        r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
}
_FIRST = list("-+.0123456789")


class UnreadableError(ValueError):
    """A text is no YAML that can be used; the message says why, and in which line."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that its mapping has already."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                before = lines[key.value]
                where = f"line {line}" if before == line else f"lines {before} and {line}"
                raise UnreadableError(f"{key.value} is there twice ({where}): put it together")
            lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that any reader of YAML could take for something else."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """A text as a scalar; in double quotes where it has a line break that only YAML knows."""
    style = '"' if any(character in text for character in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Loader.yaml_implicit_resolvers = {
    first: [kind for kind in kinds if kind[0].endswith((":bool", ":null", ":merge"))]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _FIRST)
    _Dumper.add_implicit_resolver(_tag, _pattern, _FIRST)


def read_yaml(path: Path) -> Any:
    """The values of a file. Raises UnreadableError, naming the file."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"{path} is not UTF-8 in line {line}: save it as UTF-8") from None
    try:
        return parse_yaml(text)
    except UnreadableError as error:
        raise UnreadableError(f"{path} is not valid YAML: {error}") from error


def parse_yaml(text: str) -> Any:
    """The values of a text. Raises UnreadableError."""
    try:
        values = yaml.load(text, _Loader)  # a SafeLoader
        _count(values, [MOST_VALUES], 0)
    except yaml.YAMLError as error:
        raise UnreadableError(" ".join(str(error).split())) from error
    except RecursionError:
        raise UnreadableError("it is nested too deep") from None
    except ValueError as error:  # of a number's constructor
        raise UnreadableError(str(error)) from error
    return values


def write_yaml(values: Any) -> str:
    """A text that reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _count(value: Any, left: list[int], depth: int) -> None:
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise UnreadableError("it is nested too deep, or has an alias of what it is part of")
    if isinstance(value, dict):
        for inner in value.values():
            _count(inner, left, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _count(inner, left, depth + 1)
