"""Runs that differ in base model and seed alone are one group, named by what sets it apart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asyncds.compare.runs import RunResult

# What a run is called, where it runs and how it is watched: no part of what is compared. `model`
# is the base, `seed` the repetition; the deadlines are those of a machine.
NOT_COMPARED = frozenset(
    (
        *("name", "label", "runs_dir", "model", "tokenizer", "seed", "coordinator", "telemetry"),
        *("generator.model", "generator.gpu_memory_utilization", "generator.kv_cache_gb"),
        *("generator.cpu_threads", "generator.start_seconds", "scoring.ray_address", "ray"),
        *("learner.cpu_threads", "learner.batch_seconds", "learner.collective_seconds"),
        *("weights.host", "weights.prepare_seconds", "weights.transfer_seconds"),
    )
)

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Repetitions of the same thing.

    settings: the dotted names and values that set the group apart from the others.
    """

    label: str
    settings: Settings
    runs: tuple[RunResult, ...]


def group_runs(runs: Sequence[RunResult], *, over: str | None = None) -> list[RunGroup]:
    """Groups in the order in which their first run comes.

    Runs with a `label` in their configuration are grouped by it, the others by their settings.
    A group without one is called after the settings that differ between groups, by the shortest
    ends of their names that are unique: `advantage.kind=ds_grpo gamma_p=1`.

    over: a dotted setting that makes no difference. Labels lose what names its value (see
    `series_label`), and groups that differ in nothing else become one.
    """
    members: dict[Any, list[RunResult]] = {}
    for run in runs:
        label = series_label(run.config, over)
        key = ("label", label) if label else tuple(sorted(_texts(settings(run.config)).items()))
        members.setdefault(key, []).append(run)
    several = list(members.values())
    first = [settings(group[0].config) for group in several]
    short = _short_names(sorted({name for one in first for name in one}))
    merged: dict[Any, tuple[str, Settings, list[RunResult]]] = {}
    for group, differing in zip(several, _differing(first), strict=True):
        label = series_label(group[0].config, over)
        own = {name: value for name, value in differing.items() if name != over}
        key = ("label", label) if label else tuple(sorted(_texts(own).items()))
        merged.setdefault(key, (label, own, []))[2].extend(group)
    return [
        RunGroup(label=label or _label(own, short, group), settings=own, runs=tuple(group))
        for label, own, group in merged.values()
    ]


def series_label(config: Settings, over: str | None) -> str:
    """The `label` in a configuration, "" without one.

    What a sweep adds to it for the setting `over` is left out: `GRPO target_lag=4` is `GRPO` over
    `rollout.target_lag`.
    """
    label = config.get("label") or ""
    value = None if over is None else setting_text(config, over)
    if over is None or value is None:
        return label
    leaf = re.escape(over.rpartition(".")[2])
    for found in re.finditer(rf" {leaf}=(\[.*?\]|\S+)(?!\S)", label):
        if _tokens(found[1]) == _tokens(value):
            return label[: found.start()] + label[found.end() :]
    return label


def setting_text(config: Settings, name: str) -> str | None:
    """The value of any dotted setting as a text; None where the configuration has none."""
    value: Any = config
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return None if isinstance(value, dict) else _text(value)


def as_number(text: str) -> float | str:
    """The number that a text is, else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def last_parts(paths: Iterable[str]) -> dict[str, str]:
    """How to call the paths: by their last part, if those differ."""
    short = {path: path.rstrip("/").rsplit("/", 1)[-1] for path in paths}
    return short if len(set(short.values())) == len(short) else {path: path for path in short}


def settings(config: Settings, prefix: str = "") -> Settings:
    """Dotted names and values of what is compared: `{"learner.lr": 1e-4, …}`."""
    flat: Settings = {}
    for key, value in config.items():
        if (name := prefix + str(key)) in NOT_COMPARED:
            continue
        flat |= settings(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat


def _differing(groups: Sequence[Settings]) -> list[Settings]:
    """The settings of each group that differ between the groups which have them.

    Those beside a `kind` are compared among groups of that kind alone: they say nothing of the
    others.
    """
    texts = [_texts(group) for group in groups]
    values: dict[tuple[str, str | None], list[str | None]] = {}
    for text in texts:
        for name in text:
            values.setdefault(_scope(text, name), [])
    for scope, found in values.items():
        alike = [t for t in texts if scope[1] is None or _kind(t, scope[0]) == scope[1]]
        found += [t.get(scope[0]) for t in alike]
    apart = {scope for scope, found in values.items() if len(set(found)) > 1}
    return [
        {name: value for name, value in group.items() if _scope(text, name) in apart}
        for group, text in zip(groups, texts, strict=True)
    ]


def _scope(texts: dict[str, str], name: str) -> tuple[str, str | None]:
    """A setting's name, and the kind that it belongs to."""
    return name, _kind(texts, name)


def _kind(texts: dict[str, str], name: str) -> str | None:
    parent, _, leaf = name.rpartition(".")
    return None if leaf == "kind" else texts.get(f"{parent}.kind")


def _texts(values: Settings) -> dict[str, str]:
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


def _tokens(text: str) -> list[float | str]:
    """The parts of a value, however a sweep and a configuration write it.

    `2e-4` is `0.0002`, `None` is `null`.
    """
    parts = re.split(r"[\[\],\s]+", text.lower().replace("none", "null"))
    return [as_number(part) for part in parts if part]


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted name that no other name ends with."""
    ends = {n: [n.split(".", i)[i] for i in reversed(range(n.count(".") + 1))] for n in names}
    owners: dict[str, int] = {}
    for every in ends.values():
        for end in every:
            owners[end] = owners.get(end, 0) + 1
    return {n: next((e for e in every if owners[e] == 1), n) for n, every in ends.items()}


def _label(differing: Settings, short: dict[str, str], runs: Sequence[RunResult]) -> str:
    if differing:
        return " ".join(f"{short[name]}={_text(value)}" for name, value in differing.items())
    return str(runs[0].config.get("name", "run")) if len(runs) == 1 else "all runs"
