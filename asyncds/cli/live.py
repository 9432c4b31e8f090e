"""The view of a run in the terminal while it goes on. What is not known is shown as a dash."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncds.protocol.records import LearnerStatus, MemberStatus, RunStatus
from asyncds.telemetry.numbers import duration, number, percent

_STATE = {"running": "green", "finished": "green", "failed": "red", "interrupted": "yellow"}
_HEALTH = {"healthy": "green", "suspect": "yellow", "dead": "red"}
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 24


def render(status: RunStatus) -> RenderableType:
    """The whole view, redrawn at every status."""
    parts: list[RenderableType] = [_progress(status), Text(), _numbers(status)]
    for name, value in (("waits", status.waiting_for), ("page", status.page)):
        if value:
            parts.append(Text.assemble((f"{name:<11}", "dim"), value))
    parts += [Text(), _fleet(status)]
    if status.message:
        parts += [Text(), Text(status.message, style="yellow")]
    state = (status.state, _STATE.get(status.state, "cyan"))
    title = Text.assemble((status.name or "run", "bold"), " · ", state)
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def plain_line(status: RunStatus) -> str:
    """One line, for logs and pipes."""
    parts = [f"[{_shown(status.elapsed, duration)}] {status.state}"]
    if status.steps != 0:
        parts.append(f"step {status.step}/{_shown(status.steps)}")
        parts.append(f"version {status.version}")
    for name, value, form in (
        ("reward", status.reward, "{:.3f}".format),
        ("correct", status.correct, percent),
        ("lag", status.lag_mean, number),
        ("generated tok/s", status.generated_tokens_per_second, number),
        ("trained tok/s", status.trained_tokens_per_second, number),
        ("sync s", status.sync_seconds, number),
    ):
        if value is not None:
            parts.append(f"{name} {form(value)}")
    parts += [f"Pass@{k} {percent(v)}" for k, v in _passes(status).items()]
    parts += filter(None, (status.waiting_for, status.message))
    return " · ".join(parts)


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as bars, scaled to their own range."""
    known = [v for v in values if v is not None][-_SPARK_WIDTH:]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known) or 1.0
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in known)


def _progress(status: RunStatus) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(
        Text.assemble(("step ", "dim"), f"{status.step}/{_shown(status.steps)}"),
        ProgressBar(total=status.steps or 1, completed=status.step, width=30),
        Text.assemble(("version ", "dim"), number(status.version)),
        Text(_shown(status.elapsed, duration)),
    )
    return row


def _numbers(status: RunStatus) -> RenderableType:
    """Left what is learnt, right how fast."""
    curve = sparkline(status.history.reward)
    learnt: list[tuple[str, str, str]] = [
        ("reward", _shown(status.reward, "{:.3f}".format), curve),
        ("correct", _shown(status.correct, percent), ""),
    ]
    base = status.base_pass or {}
    for k, share in _passes(status).items():
        before = f"base {percent(base[k])}" if k in base else ""
        learnt.append((f"Pass@{k}", percent(share), before))
    learnt.append(("distinct", _shown(status.distinct_correct, "{:.2f}".format), "per group"))
    lags = f"largest {_shown(status.lag_max)}, bound {_shown(status.max_lag)}"
    pause = f"pause {_shown(status.pause_seconds, '{:.2f} s'.format)}"
    speed = [
        ("generated", _shown(status.generated_tokens_per_second), "tokens/s"),
        ("trained", _shown(status.trained_tokens_per_second), "tokens/s"),
        ("lag", _shown(status.lag_mean), lags),
        ("groups", number(status.outstanding), f"out, {number(status.buffered)} ready"),
        ("sync", _shown(status.sync_seconds, "{:.2f} s".format), pause),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for i in range(max(len(learnt), len(speed))):
        cells: list[Text] = []
        for column in (learnt, speed):
            name, value, remark = column[i] if i < len(column) else ("", "", "")
            cells += [Text(f"{name:<9}", "dim"), Text(value, justify="right"), Text(remark, "dim")]
        grid.add_row(*cells)
    return grid


def _fleet(status: RunStatus) -> RenderableType:
    view = Table.grid(padding=(0, 2, 0, 0))
    learner = status.learner
    view.add_row(
        Text("learner"),
        Text(learner.phase or "–"),
        Text(f"version {_version(learner.version)}", "dim"),
        Text(f"step {learner.step}", "dim"),
        Text(f"idle {_shown(learner.idle_fraction, percent)}", "dim"),
        Text(),
        _age(learner),
    )
    for member in status.fleet:
        view.add_row(
            Text(member.name),
            Text(member.health, style=_HEALTH.get(member.health, "cyan")),
            Text(f"version {_version(member.version)}", "dim"),
            Text(f"{member.leases} leases", "dim"),
            Text(f"{_shown(member.tokens_per_second)} tokens/s", "dim"),
            Text(f"kv {_shown(member.kv_use, percent)}", "dim"),
            _age(member),
        )
    return view


def _age(process: LearnerStatus | MemberStatus) -> Text:
    """A word about a member's silence; "" for one that was heard."""
    silent = process.last_seen
    return (
        Text(f"silent for {silent:.0f} s", "yellow")
        if silent is not None and silent > 5
        else Text()
    )


def _passes(status: RunStatus) -> dict[str, float]:
    """Pass@k of the lowest and the highest k."""
    known = status.pass_ or {}
    ks = sorted(known, key=int)
    return {k: known[k] for k in dict.fromkeys(ks[:1] + ks[-1:])}


def _version(version: int) -> str:
    return "–" if version < 0 else number(version)


def _shown(value: float | None, form: Callable[[float], str] = number) -> str:
    return "–" if value is None else form(value)
