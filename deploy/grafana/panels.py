"""What a dashboard is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Query = tuple[str, str]
"""PromQL, and the legend of its series."""
Steps = tuple[tuple[float, str], ...]
"""(from this value on, colour), rising: where an alert of ../prometheus/rules.yaml begins."""
Words = Mapping[int, tuple[str, str]]
"""What a value means, and the colour it has."""

DRIFT: Steps = ((0.01, "orange"),)
"""Of a mismatch, nats per token."""
SHARE: Steps = ((0.05, "orange"),)
"""Of groups or completions that come to nothing."""
ANY: Steps = ((1, "red"),)
"""One is too many."""


@dataclass(frozen=True)
class Panel:
    """kind, unit and colours are Grafana's.

    base: the colour below the first of steps. stack: areas that add up. top: end of the axis.
    colours: of the series whose legend ends with a word. dashed: words that end the legends of what
    others are compared with.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "state-timeline"] = "timeseries"
    unit: str = "short"
    base: str = "green"
    steps: Steps = ()
    words: Words = field(default_factory=dict)
    decimals: int | None = None
    stack: bool = False
    top: float | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    dashed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A title and the panels under it, so many beside each other, so high on Grafana's grid."""

    title: str
    panels: tuple[Panel, ...]
    columns: int = 3
    height: int = 8


def now(*panels: Panel) -> Row:
    """The first look: one number each."""
    return Row("Now", panels, columns=len(panels), height=4)


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps = (),
    stack: bool = False,
    top: float | None = None,
    colours: Mapping[str, str] | None = None,
    dashed: tuple[str, ...] = (),
) -> Panel:
    """Lines over time; steps are drawn as lines."""
    return Panel(
        title,
        description,
        queries,
        unit=unit,
        steps=steps,
        stack=stack,
        top=top,
        colours=colours or {},
        dashed=dashed,
    )


def stat(
    title: str,
    description: str,
    query: str,
    *,
    unit: str = "short",
    base: str = "green",
    steps: Steps = (),
    words: Words | None = None,
    decimals: int | None = None,
) -> Panel:
    """The value now, one for each run that is there."""
    return Panel(
        title,
        description,
        ((query, "{{run}}"),),
        kind="stat",
        unit=unit,
        base=base,
        steps=steps,
        words=words or {},
        decimals=decimals,
    )


def states(title: str, description: str, *queries: Query, words: Words) -> Panel:
    """A band over time for each series."""
    return Panel(title, description, queries, kind="state-timeline", words=words)
