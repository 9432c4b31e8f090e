"""Runs that differ in base model and seed alone are one group, named by what sets it apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyncds.telemetry.run_results import RunResult

# What a run is called, where it runs and how it is watched: no part of what is compared. `model`
# is the base, `seed` the repetition; the deadlines are those of a machine.
NOT_COMPARED = frozenset(
    (
        *("name", "label", "runs_dir", "model", "tokenizer", "seed", "coordinator", "telemetry"),
        *("generator.model", "generator.gpu_memory_utilization", "generator.kv_cache_gb"),
        *("generator.cpu_threads", "generator.start_seconds", "scoring.ray_address"),
        *("learner.cpu_threads", "learner.batch_seconds", "learner.collective_seconds"),
        *("weights.host", "weights.prepare_seconds", "weights.transfer_seconds"),
    )
)

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Repetitions of the same thing. settings: the dotted names and values that set the group
    apart from the others."""

    label: str
    settings: Settings
    runs: tuple[RunResult, ...]


def group_runs(runs: Sequence[RunResult]) -> list[RunGroup]:
    """Groups in the order in which their first run comes.

    Runs with a `label` in their configuration are grouped by it, the others by their settings.
    A group without one is called after the settings that differ between groups, by the shortest
    ends of their names that are unique: `advantage.kind=ds_grpo gamma_p=1`.
    """
    members: dict[Any, list[RunResult]] = {}
    for run in runs:
        label = run.config.get("label")
        key = ("label", label) if label else tuple(sorted(_texts(settings(run.config)).items()))
        members.setdefault(key, []).append(run)
    several = list(members.values())
    first = [settings(group[0].config) for group in several]
    own = _differing(first)
    short = _short_names(sorted({name for one in first for name in one}))
    return [
        RunGroup(
            label=group[0].config.get("label") or _label(differing, short, group),
            settings=differing,
            runs=tuple(group),
        )
        for group, differing in zip(several, own, strict=True)
    ]


def settings(config: Settings, prefix: str = "") -> Settings:
    """Dotted names and values of what is compared: `{"learner.lr": 1e-4, …}`."""
    flat: Settings = {}
    for key, value in config.items():
        if (name := prefix + str(key)) in NOT_COMPARED:
            continue
        flat |= settings(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat


def _differing(groups: Sequence[Settings]) -> list[Settings]:
    """Of each group the settings that differ between the groups which have them. Those beside a
    `kind` are compared among groups of that kind alone: they say nothing of the others."""
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
