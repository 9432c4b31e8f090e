"""Loading a configuration: from a YAML file and `key=value` overrides to a valid one."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from asyncds.algo.bundles import with_bundle
from asyncds.choices.one_of import OPEN
from asyncds.choices.schedule import NUMBER, SCHEDULE
from asyncds.config.reading import UnreadableError, parse_yaml, read_yaml, write_yaml
from asyncds.config.schema import RunConfig


class ConfigError(Exception):
    """The configuration can't be used; the message says what is wrong and how to mend it."""


C = TypeVar("C", bound=BaseModel)


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read ``path``, apply overrides such as ``learner.lr=1e-4``, validate.

    Values of overrides are YAML. Choosing another ``kind`` (``algorithm.advantage.kind=grpo``)
    clears the fields beside it, which belong to the kind that was there; ``algorithm.kind`` is
    applied before all others.

    Raises:
        ConfigError: the file can't be read, or a value is refused; one line per problem.
    """
    return parse_config(read_values(path, overrides))


def read_values(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """The values of a file with overrides applied. Raises ConfigError."""
    try:
        values = read_yaml(path)
    except UnreadableError as error:
        raise ConfigError(str(error)) from error
    if _is_sweep(values):
        raise ConfigError(
            f"{path} is a sweep, of runs of {values['run']}: start it with `asyncds sweep`, and "
            "check it with `asyncds config check`"
        )
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping such as `model: …`, not a {_name(values)}")
    # A named algorithm first: what is set beside it is on top of it, in whatever order.
    for override in sorted(overrides, key=lambda o: not o.startswith("algorithm.kind=")):
        _apply(values, override)
    return values


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep rather than a run; one that can't be read is none."""
    try:
        return _is_sweep(read_yaml(path))
    except UnreadableError:
        return False


def _is_sweep(values: Any) -> bool:
    return isinstance(values, dict) and isinstance(values.get("run"), str) and "model" not in values


def parse_config(values: dict[str, Any]) -> RunConfig:
    """Validate plain values. Raises ConfigError with one line per problem."""
    if "algorithm" in values:
        values = {**values, "algorithm": with_bundle(values["algorithm"])}
    return parse_as(RunConfig, values)


def parse_as(kind: type[C], values: dict[str, Any]) -> C:
    """Validate plain values as a configuration of a kind. Raises ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # A list of which parts are wrong is then also said to be too short.
        inside = {e["loc"][:n] for e in errors for n in range(len(e["loc"]))}
        sentences = [_sentence(e, values, kind) for e in errors if e["loc"] not in inside]
        raise ConfigError("\n".join(sentences)) from error


def dump_config(config: BaseModel) -> str:
    """YAML with every default written out."""
    return write_yaml(config.model_dump(mode="json"))


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    try:
        value = parse_yaml(text)
    except UnreadableError as error:
        raise ConfigError(f"the value of {key} is not valid YAML: {error}") from error
    *parents, leaf = key.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {parent} is a {_name(child)}, it has no fields")
        node = child
    if leaf == "kind" and node.get("kind") != value:
        node.clear()
    node[leaf] = value


def _sentence(error: Any, values: dict[str, Any], kind: type[BaseModel]) -> str:
    tags = _tags(values, error["loc"])
    where = [part for i, part in enumerate(error["loc"]) if i not in tags]
    path = ".".join(str(p) for p in where)
    if error["type"] == "extra_forbidden":
        return f"unknown key {path}{_suggestion(where, kind)}"
    if error["type"] == "missing":
        return f"{path} is missing: set it in the file or with {path}=…"
    message = str(error.get("ctx", {}).get("error", "")) or error["msg"]
    given = error.get("input")
    if error["type"] == "string_type" and isinstance(given, int | float):
        message = "text is needed here: write it in quotes, inside those of the shell"
    if error["type"] in ("tuple_type", "list_type"):
        message = "a list is needed here: put it in [ ]"
    if error["type"] == "unknown_kind" and isinstance(given, str):
        message = f"settings are needed here, such as {{kind: {given}}}"
    if error["type"] == "model_type":
        message = "settings are needed here"
        if section := _section(error["ctx"]["class_name"], kind):
            fields = list(section.model_fields)
            chosen = "kind" in fields and isinstance(given, str)
            message += f", such as {{{f'kind: {given}' if chosen else f'{fields[0]}: …'}}}"
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{path}: {message}{shown}" if path else message


def _tags(values: Any, loc: tuple[Any, ...]) -> set[int]:
    """Where in an error's path pydantic has put tags of unions."""
    tags: set[int] = set()
    for i, part in enumerate(loc):
        kind = values.get("kind") if isinstance(values, dict) else None
        own = part == OPEN and isinstance(kind, str) and ":" in kind
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(part, int):  # unless it is a single value that stands for a list of one
            values = values[part] if isinstance(values, list) else values
        elif own or part in (kind, NUMBER, SCHEDULE):
            tags.add(i)
    return tags


def _suggestion(where: list[Any], kind: type[BaseModel]) -> str:
    *parents, leaf = [str(p) for p in where if not isinstance(p, int)]
    # The last parent may be a name of the person's own.
    known = _fields(parents, kind) or _fields(parents[:-1], kind)
    if near := difflib.get_close_matches(leaf, known, n=1, cutoff=0.5):
        return f": did you mean {'.'.join([*map(str, where[:-1]), near[0]])}?"
    elsewhere = [p for p in _all_paths(kind) if p.rsplit(".", 1)[-1] == leaf]
    if elsewhere:
        return f": did you mean {elsewhere[0]}?"
    return f": {'.'.join(parents) or 'a run'} has {', '.join(sorted(known))}" if known else ""


def _fields(parents: list[str], kind: type[BaseModel]) -> list[str]:
    prefix = "".join(p + "." for p in parents)
    paths = {p for p in _all_paths(kind) if p.startswith(prefix)}
    return list(dict.fromkeys(p[len(prefix) :].split(".")[0] for p in paths))


def _all_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        for inner in _models(field.annotation):
            paths += _all_paths(inner, f"{prefix}{name}.")
    return paths


def _section(name: str, kind: type[BaseModel]) -> type[BaseModel] | None:
    """The class of that name, with fields, among those that a configuration consists of."""
    inner = [m for field in kind.model_fields.values() for m in _models(field.annotation)]
    found = (m if m.__name__ == name else _section(name, m) for m in inner)
    return next((m for m in found if m is not None and m.model_fields), None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models(arg)]


def _name(value: object) -> str:
    return {dict: "mapping", list: "list", str: "text", type(None): "blank"}.get(
        type(value), type(value).__name__
    )
