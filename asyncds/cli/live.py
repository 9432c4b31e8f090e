"""The view of a run in the terminal while it goes on, from the plain values of `Status.run`.

Every value may be missing or None: it is shown as a dash, or its line is left out. Times are in
seconds, `last_seen` is seconds since the last word, fractions lie between 0 and 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncds.telemetry.numbers import duration, number, percent

Status = Mapping[str, Any]

_STATE = {"running": "green", "finished": "green", "failed": "red", "interrupted": "yellow"}
_HEALTH = {"healthy": "green", "suspect": "yellow", "dead": "red"}
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 24


def render(status: Status) -> RenderableType:
    """The whole view, redrawn at every status."""
    parts: list[RenderableType] = [_progress(status), Text(), _numbers(status)]
    for name, key in (("waits", "waiting_for"), ("page", "page")):
        if value := status.get(key):
            parts.append(Text.assemble((f"{name:<11}", "dim"), str(value)))
    parts += [Text(), _fleet(status)]
    if message := status.get("message"):
        parts += [Text(), Text(str(message), style="yellow")]
    state = str(status.get("state") or "starting")
    title = Text.assemble(
        (str(status.get("name") or "run"), "bold"), " · ", (state, _STATE.get(state, "cyan"))
    )
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def plain_line(status: Status) -> str:
    """One line, for logs and pipes."""
    state = status.get("state") or "starting"
    parts = [f"[{_shown(status, 'elapsed', duration)}] {state}"]
    if status.get("steps") != 0:
        parts.append(f"step {_shown(status, 'step')}/{_shown(status, 'steps')}")
        parts.append(f"version {_shown(status, 'version')}")
    for name, key, form in (
        ("reward", "reward", "{:.3f}".format),
        ("correct", "correct", percent),
        ("lag", "lag_mean", number),
        ("generated tok/s", "generated_tokens_per_second", number),
        ("trained tok/s", "trained_tokens_per_second", number),
        ("sync s", "sync_seconds", number),
    ):
        if status.get(key) is not None:
            parts.append(f"{name} {_shown(status, key, form)}")
    parts += [f"Pass@{k} {percent(v)}" for k, v in _passes(status).items()]
    parts += [str(status[key]) for key in ("waiting_for", "message") if status.get(key)]
    return " · ".join(parts)


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as bars, scaled to their own range."""
    known = [v for v in values if v is not None][-_SPARK_WIDTH:]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known) or 1.0
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in known)


def _progress(status: Status) -> RenderableType:
    step, steps = status.get("step") or 0, status.get("steps")
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(
        Text.assemble(("step ", "dim"), f"{step}/{'–' if steps is None else steps}"),
        ProgressBar(total=steps or 1, completed=step, width=30),
        Text.assemble(("version ", "dim"), _shown(status, "version")),
        Text(_shown(status, "elapsed", duration)),
    )
    return row


def _numbers(status: Status) -> RenderableType:
    """Left what is learnt, right how fast."""
    history = status.get("history") or {}
    learnt: list[tuple[str, str, str]] = [
        (
            "reward",
            _shown(status, "reward", "{:.3f}".format),
            sparkline(history.get("reward") or []),
        ),
        ("correct", _shown(status, "correct", percent), sparkline(history.get("correct") or [])),
    ]
    base = status.get("base_pass") or {}
    for k, share in _passes(status).items():
        before = "" if base.get(k) is None else f"base {percent(base[k])}"
        learnt.append((f"Pass@{k}", percent(share), before))
    learnt.append(("distinct", _shown(status, "distinct_correct", "{:.2f}".format), "per group"))
    speed = [
        ("generated", _shown(status, "generated_tokens_per_second"), "tokens/s"),
        ("trained", _shown(status, "trained_tokens_per_second"), "tokens/s"),
        (
            "lag",
            _shown(status, "lag_mean"),
            f"largest {_shown(status, 'lag_max')}, bound {_shown(status, 'max_lag')}",
        ),
        ("groups", _shown(status, "outstanding"), f"out, {_shown(status, 'buffered')} ready"),
        (
            "sync",
            _shown(status, "sync_seconds", "{:.2f} s".format),
            f"pause {_shown(status, 'pause_seconds', '{:.2f} s'.format)}",
        ),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for i in range(max(len(learnt), len(speed))):
        cells: list[Text] = []
        for column in (learnt, speed):
            name, value, remark = column[i] if i < len(column) else ("", "", "")
            cells += [Text(f"{name:<9}", "dim"), Text(value, justify="right"), Text(remark, "dim")]
        grid.add_row(*cells)
    return grid


def _fleet(status: Status) -> RenderableType:
    view = Table.grid(padding=(0, 2, 0, 0))
    learner = status.get("learner") or {}
    view.add_row(
        Text("learner"),
        Text(str(learner.get("phase") or "–")),
        Text(f"version {_shown(learner, 'version')}", "dim"),
        Text(f"step {_shown(learner, 'step')}", "dim"),
        Text(f"idle {_shown(learner, 'idle_fraction', percent)}", "dim"),
        Text(),
        _age(learner),
    )
    for member in status.get("fleet") or []:
        health = str(member.get("health") or "–")
        view.add_row(
            Text(str(member.get("name") or "–")),
            Text(health, style=_HEALTH.get(health, "cyan")),
            Text(f"version {_shown(member, 'version')}", "dim"),
            Text(f"{_shown(member, 'leases')} leases", "dim"),
            Text(f"{_shown(member, 'tokens_per_second')} tokens/s", "dim"),
            Text(f"kv {_shown(member, 'kv_use', percent)}", "dim"),
            _age(member),
        )
    return view


def _age(process: Mapping[str, Any]) -> Text:
    """Only silence is worth a word."""
    silent = process.get("last_seen")
    return (
        Text(f"silent for {silent:.0f} s", "yellow")
        if silent is not None and silent > 5
        else Text()
    )


def _passes(status: Status) -> dict[str, float]:
    """Pass@k of the lowest and the highest k."""
    known = {k: v for k, v in (status.get("pass") or {}).items() if v is not None}
    ks = sorted(known, key=int)
    return {k: known[k] for k in dict.fromkeys(ks[:1] + ks[-1:])}


def _shown(values: Mapping[str, Any], key: str, form: Callable[[float], str] = number) -> str:
    value = values.get(key)
    return "–" if value is None else form(value)
