"""Run directories as a comparison reads them: what was asked for, and what came out."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary

Evaluation = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run.

    base: what it has in common with the run of another group that it is paired with: its model, as
    the configuration names it; of an evaluation without training (`asyncds eval`), its name, which
    is that of the task. summary and lines: what summary.json and metrics.jsonl hold.
    """

    path: str
    base: str
    seed: int
    config: dict[str, Any]
    summary: dict[str, Any]
    lines: list[dict[str, Any]]

    def evaluations(self, temperature: float | None, part: str = "") -> list[Evaluation]:
        """Evaluations at this temperature, oldest first: the base model's, …, the result's.

        part: an evaluation set, for the numbers over this one alone.
        """
        found = [e for e in self.summary["eval"] if e.get("temperature") == temperature]
        return [e | e["sets"][part] for e in found if part in e.get("sets", {})] if part else found

    def ends(self, temperature: float | None, part: str = "") -> list[Evaluation]:
        """The evaluations of base and result at this temperature; [] if the run lacks one.

        Where nothing was trained there is a result alone.
        """
        found = self.evaluations(temperature, part)
        if not self.config.get("steps", 1):
            return found[-1:]
        return [found[0], found[-1]] if len(found) > 1 else []

    def sets(self, temperature: float | None) -> list[str]:
        """Evaluation sets of which base and result are known, where there are several."""
        found = [e.get("sets", {}) for e in self.ends(temperature)]
        both = [name for name in found[0] if name in found[-1]] if found else []
        return both if len(both) > 1 else []

    @property
    def temperatures(self) -> list[float | None]:
        """Temperatures of which base and result are known, in the order of the file.

        None: that of an evaluation that does not say.
        """
        seen = dict.fromkeys(e.get("temperature") for e in self.summary["eval"])
        return [t for t in seen if self.ends(t)]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A run that is not compared, and why."""

    path: str
    reason: str


class NotARunError(Exception):
    """A path is no run directory and holds none."""


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run directory among the paths and, in the order of their names, below them; each once.

    Links below a path are not followed.

    Raises NotARunError for a path without any.
    """
    found: dict[str, Path] = {}
    for path in paths:
        runs = list(_runs_in(path)) if path.is_dir() else []
        if not runs:
            raise NotARunError(
                f"{path} is not a run directory and holds none: name directories with a config.yaml"
            )
        for run in runs:
            found.setdefault(os.path.realpath(run), run)
    return list(found.values())


def read_result(path: Path) -> RunResult | LeftOut:
    """A run that finished with evaluations of base and result, or why it can't be compared."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
        summary = read_summary(path / "summary.json")
        lines = read_run_log(path / "metrics.jsonl")
    except (OSError, yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        return LeftOut(path=str(path), reason=f"can't be read: {' '.join(str(error).split())}")
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        return LeftOut(path=str(path), reason="its config.yaml names no model")
    if summary is None:
        return LeftOut(path=str(path), reason="has no summary.json yet: it runs, or was killed")
    if (status := summary.get("status")) != "finished":
        return LeftOut(path=str(path), reason=f"its status is {status}, not finished")
    return comparable(make_result(str(path), config, summary, lines))


def make_result(
    path: str, config: dict[str, Any], summary: dict[str, Any], lines: list[dict[str, Any]]
) -> RunResult:
    """A finished run, of its evaluations those with Pass@k."""
    evaluations = [e for e in summary.get("eval") or [] if e.get("pass@k")]
    return RunResult(
        path=path,
        base=config["model"] if config.get("steps", 1) else config["name"],
        seed=config.get("seed", 0),
        config=config,
        summary={**summary, "eval": evaluations},
        lines=lines,
    )


def comparable(run: RunResult) -> RunResult | LeftOut:
    """The run, if its base and its result were both evaluated."""
    if run.temperatures:
        return run
    return LeftOut(path=run.path, reason="its base and its result were not both evaluated")


def _runs_in(path: Path) -> Iterator[Path]:
    if (path / "config.yaml").exists():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.is_symlink():
            yield from _runs_in(child)
