"""How a metric is declared: its name, what it says, its unit and labels, as plain data."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["coordinator", "generator", "learner"]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One row of the table. labels: label name → values seeded with zero. help ends with the unit
    in brackets."""

    name: str
    kind: Kind
    help: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
