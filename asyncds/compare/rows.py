"""A file of rows: what the runs of a study were asked for and what they reached, one line a run.

JSON lines, to be read in a diff. The first line holds the settings that all runs share (`common`);
each other one a run's `name`, its other `settings` by dotted names, and its `summary`. The file
stands for the runs' directories in comparisons, and for the runs in a sweep.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from asyncds.compare.runs import (
    LeftOut,
    RunResult,
    comparable,
    find_runs,
    make_result,
    read_result,
)
from asyncds.telemetry.files import replace_file, to_json

DIGITS = 7
"""Significant digits of a number."""
NOT_KEPT = frozenset(("id", "pass@k_interval", "distinct_correct_interval", "n_defined"))
"""Fields in which an evaluation speaks of itself alone: no part of a comparison."""

Settings = dict[str, Any]


class RowsError(Exception):
    """A file of rows can't be read."""


def read_runs(paths: Iterable[Path]) -> list[RunResult | LeftOut]:
    """The runs of files of rows, and of run directories among the paths and below them.

    Raises NotARunError for a path without any, RowsError for a file that is something else.
    """
    found: list[RunResult | LeftOut] = []
    for is_file, some in groupby(paths, key=Path.is_file):
        if is_file:
            found += [comparable(run) for path in some for run in read_rows(path).values()]
        else:
            found += map(read_result, find_runs(some))
    return found


def read_rows(path: Path) -> dict[str, RunResult]:
    """The runs of a file by their names, in its order; none if there is no file.

    Raises RowsError: it can't be read, or is something else.
    """
    if not path.exists():
        return {}
    try:
        first, *others = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        common = first["common"]
        return {one["name"]: _run(path, one, common | one["settings"]) for one in others}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RowsError(
            f"{path} is neither a run directory nor a file of rows: {error!r}"
        ) from error


def write_rows(path: Path, runs: Mapping[str, RunResult]) -> None:
    """Write the file: a reader sees the old one or the new one."""
    flat = {name: flatten(run.config) for name, run in runs.items()}
    texts = [{key: to_json(value) for key, value in one.items()} for one in flat.values()]
    shared = set.intersection(*(set(one.items()) for one in texts)) if texts else set()
    common = {key for key, _ in shared}
    first = next(iter(flat.values()), {})
    lines: list[Any] = [{"common": {key: first[key] for key in first if key in common}}]
    for name, settings in flat.items():
        own = {key: value for key, value in settings.items() if key not in common}
        lines.append({"name": name, "settings": own, "summary": _short(runs[name].summary)})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(to_json(line) + "\n" for line in lines))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Settings:
    """Dotted names and values of a configuration; an empty section is a value."""
    flat: Settings = {}
    for key, value in config.items():
        whole = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if whole else {prefix + key: value}
    return flat


def unflatten(settings: Settings) -> dict[str, Any]:
    """The configuration with these dotted names and values."""
    config: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, leaf = name.split(".")
        inner = config
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    return config


def _run(path: Path, row: dict[str, Any], settings: Settings) -> RunResult:
    config = unflatten(settings)
    return make_result(f"{path}/{row['name']}", config, row["summary"], [])


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items() if k not in NOT_KEPT}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
