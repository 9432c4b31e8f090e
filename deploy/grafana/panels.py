"""What a dashboard is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A graph. queries: (PromQL, legend). unit: one of Grafana's. stack: areas that add up."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    stack: bool = False


@dataclass(frozen=True)
class Row:
    """A title and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


def panel(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    stack: bool = False,
) -> Panel:
    return Panel(title, description, queries, unit, stack)
