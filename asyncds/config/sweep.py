"""A sweep: many runs of one configuration with settings varied. `configs/studies/` has some."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from asyncds.config.load import ConfigError, load_config
from asyncds.config.reading import UnreadableError, read_yaml
from asyncds.config.schema import RunConfig
from asyncds.config.section import Section

Overrides = dict[str, Any]
"""Dotted settings, such as ``algorithm.advantage.kind``, and their values."""


class SweepConfig(Section):
    """A sweep: every arm with every combination of the grid's values is a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The runs' directories are `<runs_dir>/<name>/<run>`."""
    run: str
    """The configuration that every run starts from; a path relative to the sweep's file."""
    set: Overrides = Field(default_factory=dict)
    """Settings of every run, `key: value` with dotted keys."""
    arms: dict[str, Overrides] = Field({"run": {}}, min_length=1)
    """What is compared: a name, and the settings that make it."""
    grid: dict[str, list[Any] | dict[str, Overrides]] = Field(default_factory=dict)
    """What every arm is repeated with: a setting and a list of its values, or any word and a
    mapping of names to settings. Arms vary fastest and the first of these slowest, so that with
    `seed` first an unfinished sweep has as many runs of every arm. Runs that differ in `seed` and
    `model` only, whatever these two set, are compared as one."""
    baseline: str | None = None
    """The group that the others are compared with: an arm, followed by what the grid adds to its
    name; default: the first."""

    @field_validator("grid")
    @classmethod
    def _not_empty(
        cls, grid: dict[str, list[Any] | dict[str, Overrides]]
    ) -> dict[str, list[Any] | dict[str, Overrides]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values: give at least one, or leave it out")
        return grid


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a sweep. overrides: on top of `source`, in the order they are applied."""

    name: str
    source: Path
    overrides: list[str]
    config: RunConfig


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> tuple[SweepConfig, list[SweepRun]]:
    """Read a sweep and all its runs; ``overrides`` come last in every run.

    Raises ConfigError: the file can't be read, two runs would be the same, or a run is refused;
    one line per problem.
    """
    sweep = _read(path)
    source = path.parent / sweep.run
    runs: dict[str, SweepRun] = {}
    problems: list[str] = []
    for points in product(*(_points(key, values) for key, values in sweep.grid.items())):
        for arm, settings in sweep.arms.items():
            name = "-".join(_slug(part) for part in [arm, *(p.slug for p in points)])
            label = " ".join([arm, *(p.label for p in points if p.label)])
            repeated = {key: value for p in points for key, value in p.settings.items()}
            called = {"name": name, "label": label}
            given = [*_lines({**sweep.set, **repeated, **settings, **called}), *overrides]
            if name in runs:
                problems.append(f"two runs are called {name}: rename an arm")
                continue
            try:
                config = load_config(source, given)
            except ConfigError as error:
                problems += [f"{name}: {line}" for line in str(error).splitlines()]
                continue
            config = config.model_copy(update={"runs_dir": str(Path(config.runs_dir) / sweep.name)})
            runs[name] = SweepRun(name=name, source=source, overrides=given, config=config)
    labels = dict.fromkeys(r.config.label or "" for r in runs.values())
    if sweep.baseline is not None and sweep.baseline not in labels and not problems:
        problems.append(f"baseline {sweep.baseline} is no group: there is {', '.join(labels)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return sweep, list(runs.values())


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One value of the grid: how it is called in a run's name and in its label, and what it sets.

    label: "" where runs that differ in it are compared as one.
    """

    slug: str
    label: str
    settings: Overrides


def _points(key: str, values: list[Any] | dict[str, Overrides]) -> list[_Point]:
    repeated = key in ("seed", "model")
    if isinstance(values, dict):
        return [
            _Point(slug=name, label="" if repeated else name, settings=settings)
            for name, settings in values.items()
        ]
    leaf = key.rsplit(".", 1)[-1]
    return [
        _Point(
            slug=f"{leaf}{_last(value)}",
            label="" if repeated else f"{leaf}={value}",
            settings={key: value},
        )
        for value in values
    ]


def _read(path: Path) -> SweepConfig:
    try:
        values = read_yaml(path)
    except UnreadableError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping with name, run and arms or grid")
    try:
        return SweepConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from error


def _lines(settings: Overrides) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _last(value: Any) -> str:
    """A value in a run's name: of a path, its last part."""
    return str(value).rstrip("/").rsplit("/", 1)[-1]


def _slug(text: str) -> str:
    """A text with only what may stand in a directory's name."""
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in "._" else "-" for c in text)
    return "-".join(part for part in kept.split("-") if part)
