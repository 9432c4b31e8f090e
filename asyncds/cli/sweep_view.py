"""How far a sweep is, in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncds.cli.live import plain_line
from asyncds.protocol.records import RunStatus
from asyncds.telemetry.gains import gains
from asyncds.telemetry.numbers import duration


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a run.

    summary: None if it wrote none. problem: why it ended early, or "". seconds: that it took.
    """

    name: str
    summary: dict[str, Any] | None
    problem: str
    seconds: float

    @property
    def status(self) -> str:
        """`finished`, or what else it is."""
        if self.problem or self.summary is None:
            return "failed"
        return str(self.summary["status"])


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep is.

    total: runs of the sweep, of which `skipped` were there before and `made` are finished since, in
    `seconds`. active: the status of each run under way.
    """

    total: int
    skipped: int
    made: int
    seconds: float
    active: Sequence[RunStatus]


def render(progress: Progress) -> RenderableType:
    """The whole view."""
    done = progress.skipped + progress.made
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text.assemble(("runs ", "dim"), f"{done}/{progress.total}"),
        ProgressBar(total=progress.total, completed=done, width=30),
        Text(duration(progress.seconds)),
        Text(f"about {duration(_remaining(progress))} to go" if progress.made else "", "dim"),
    )
    lines = [
        Text.assemble((f"{status.name or 'starting'}  ", "bold"), plain_line(status))
        for status in progress.active
    ]
    return Panel(Group(head, *lines), title="runs", title_align="left", border_style="dim")


def outcome_line(outcome: Outcome) -> Text:
    """One line for a run that is over."""
    style = "green" if outcome.status == "finished" else "red"
    line = Text.assemble((f"{outcome.status:<9} ", style), (outcome.name, "bold"))
    line.append(f"  {duration(outcome.seconds)}", "dim")
    evaluations = (outcome.summary or {}).get("eval") or []
    for row in (r for r in gains(evaluations) if r.result):
        line.append(f"  {row.name} {row.result}")
    if outcome.problem:
        line.append(f"\n{outcome.problem}")
    return line


def _remaining(progress: Progress) -> float:
    left = progress.total - progress.skipped - progress.made
    return progress.seconds / max(progress.made, 1) * left
