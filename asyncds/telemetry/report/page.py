"""report.html: a run on one page that needs nothing else, no network and no script.

What it shows comes from the run directory alone and may be incomplete: a run that is going on, or
that failed, has a report too.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.evaluations import by_temperature
from asyncds.telemetry.files import replace_file
from asyncds.telemetry.gains import gains, missing_samples, set_gains
from asyncds.telemetry.metrics.catalogue import drawn
from asyncds.telemetry.metrics.charts import LEARNER_TIME
from asyncds.telemetry.numbers import duration, number, percent
from asyncds.telemetry.report.charts import by_section, report_charts
from asyncds.telemetry.rollouts.read import SAMPLES_DELETED, read_rollout, tokenizer_of
from asyncds.telemetry.rollouts.samples import sampled
from asyncds.telemetry.rollouts.texts import decoder
from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary

SAMPLE_PROBLEMS = 6

_NAMES = {
    "wall_seconds": "wall time",
    "updates_clipped": "share of updates clipped",
    "ds_shift_correct": "DS shift of correct tokens",
    "ds_shift_incorrect": "DS shift of incorrect tokens",
    "tokens_per_second": "tokens per second, start-up included",
}

Evaluation = dict[str, Any]
MetricsLine = dict[str, Any]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run directory; returns its path.

    Raises FileNotFoundError if there is no config.yaml, JournalError if the journal can't be read.
    """
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    lines = read_run_log(run_dir / "metrics.jsonl")
    summary = read_summary(run_dir / "summary.json")
    evaluations, samples = _journal(run_dir / "journal.db", config)
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([here, here.parent]), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        name=config.get("name", run_dir.name),
        model=config["model"],
        written=time.strftime("%Y-%m-%d %H:%M"),
        status=(summary or {}).get("status", "not finished"),
        tiles=_tiles(summary, lines, evaluations, config),
        comparison=gains(evaluations),
        sets=set_gains(evaluations),
        missing=missing_samples(evaluations),
        multiplicity=evaluations[0].get("solution_multiplicity") if evaluations else None,
        summary=_summary_rows(summary),
        charts=by_section(report_charts(lines, evaluations, config)),
        samples=samples,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
    path = run_dir / "report.html"
    replace_file(path, page)
    return path


def _journal(path: Path, config: dict[str, Any]) -> tuple[list[Evaluation], list[Any]]:
    """The parts of a report that come from the journal.

    Results of evaluations; and per sampled problem its prompt, and the completions of the first and
    of the last evaluation at the first temperature: those of its first lease, of several.
    """
    if not path.exists():
        return [], []
    journal = Journal(path, read_only=True)
    try:
        evaluations = [e.result() for e in journal.evaluations()]
        if not evaluations:
            return [], []
        decode = decoder(tokenizer_of(config))
        alike = by_temperature(evaluations)[evaluations[0]["temperature"]]
        both = list({e["id"]: e for e in (alike[0], alike[-1])}.values())
        by_row: list[dict[int, GroupRow]] = [{} for _ in both]
        for groups, evaluation in zip(by_row, both, strict=True):
            for group in journal.groups(evaluation=evaluation["id"]):
                groups.setdefault(group.row, group)
        rows = sorted(set.intersection(*map(set, by_row)))
        # Evenly spaced, so that nobody picked them.
        chosen = rows[:: max(1, len(rows) // SAMPLE_PROBLEMS)][:SAMPLE_PROBLEMS]
        samples = []
        for row in chosen:
            rollouts = [read_rollout(groups[row], decode) for groups in by_row]
            prompt = next((r.prompt for r in rollouts if not r.deleted), SAMPLES_DELETED)
            samples.append((prompt, [sampled(r) for r in rollouts]))
        return evaluations, samples
    finally:
        journal.close()


# --- numbers ------------------------------------------------------------------------------------


def _tiles(
    summary: dict[str, Any] | None,
    lines: Sequence[MetricsLine],
    evaluations: Sequence[Evaluation],
    config: dict[str, Any],
) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the numbers at the top."""
    last = lines[-1] if lines else {}
    values = summary or {}
    compared = gains(next(iter(by_temperature(evaluations).values()), []))
    tiles = [
        (row.name, row.result or row.base, f"base {row.base}" if row.result else "")
        for row in dict.fromkeys([*compared[:1], *compared[-2:]])
    ]
    steps = values.get("steps", last.get("step"))
    if steps is not None:
        seconds = values.get("wall_seconds") or last.get("wall_seconds") or 0.0
        remark = f"of {config.get('steps', '?')} in {duration(seconds)}"
        tiles.append(("steps", number(steps), remark))
    lags = [line["lag_max"] for line in lines if line.get("lag_max") is not None]
    if lags:
        bound = config.get("rollout", {}).get("max_lag", "?")
        tiles.append(("largest lag", number(max(lags)), f"bound {bound}"))
    if (rate := _rate(lines)) is not None:
        tiles.append(("trained tokens/s", number(rate), "from the first step on"))
    if shares := _shares(lines):
        (name, share), *rest = shares
        remark = ", ".join(f"{other} {percent(part)}" for other, part in rest)
        tiles.append((f"learner: {name}", percent(share), remark))
    return tiles


def _rate(lines: Sequence[MetricsLine]) -> float | None:
    """Tokens trained per second after the first step, which the start is in."""
    times = [line["wall_seconds"] for line in lines if line.get("wall_seconds") is not None]
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    return sum(line.get("tokens") or 0 for line in lines[1:]) / (times[-1] - times[0]) or None


def _shares(lines: Sequence[MetricsLine]) -> list[tuple[str, float]]:
    """(name, share) of what the learner's time went to, largest first."""
    spent = {
        metric.curve: sum(line.get(metric.line_key) or 0.0 for line in lines)
        for metric in drawn()[LEARNER_TIME]
    }
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda pair: -pair[1])
    return [(name, seconds / total) for name, seconds in ordered if seconds] if total else []


def _summary_rows(summary: dict[str, Any] | None) -> list[tuple[str, str]]:
    values = {k: v for k, v in (summary or {}).items() if k not in ("eval", "diagnostics")}
    return [
        (_NAMES.get(key, key.replace("_", " ")), _plain(key, value))
        for key, value in (values | ((summary or {}).get("diagnostics") or {})).items()
        if value != ""
    ]


def _plain(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        named = {"asyncds" if k == "version" else k: v for k, v in value.items() if v != ""}
        return ", ".join(f"{k} {_plain(k, v)}" for k, v in named.items()) or "none"
    if key == "wall_seconds":
        return duration(value)
    if key.endswith("_fraction"):
        return percent(value)
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)
