"""How a metric is declared: once, for everything that exports, draws or documents it.

A value travels from where it is computed under its `key`: in a line of metrics.jsonl, or in the
result of an evaluation. From the declaration follow its series on /metrics, its chart in the
report, on the live page and on a dashboard, its name at a tracker, and its row in docs/metrics.md.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Role = Literal["coordinator", "generator", "learner"]
Kind = Literal["counter", "gauge", "histogram"]
Labels = dict[str, str]

_LABEL = re.compile(r"{(\w+)}")


class Section(StrEnum):
    """A part of the report, and a row of a dashboard."""

    REWARD = "Reward"
    TASKS = "Tasks"
    HELD_OUT = "Held-out problems"
    DIVERSITY = "Diversity and entropy"
    OBJECTIVE = "Objective"
    STALENESS = "Staleness"
    AGREEMENT = "Agreement of the generators"
    TIME = "Time"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart that metrics are drawn in, in the order of their declarations.

    note: how to read it, in sentences. top: where the y axis ends at least. bound: the value of
    the configuration that is drawn as a limit, such as `rollout.max_lag`. least_parts: how many
    values a label must have for its curves to be drawn; one part alone repeats the whole. few: the
    values of a label whose curves the report draws, where it is not all.
    """

    title: str
    note: str
    section: Section
    top: float | None = None
    bound: str = ""
    least_parts: int = 1
    few: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that a run is known by.

    name: on /metrics, `asyncds_ROLE_NAME`; "" if it is only in metrics.jsonl. labels: the values of
    each label; () where a run brings them. record: what its values come with, "" if its process
    sets them itself. key: under which they stand there, labels in braces, such as
    `ratio/{quantile}`. curve: its name in the chart, labels in braces. smooth: whether a moving
    mean is drawn. summary: whether summary.json has its mean, least and largest value.
    """

    role: Role
    name: str = ""
    kind: Kind = "gauge"
    help: str
    unit: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    record: Literal["", "batch", "evaluation"] = ""
    key: str = ""
    chart: Chart | None = None
    curve: str = ""
    smooth: bool = True
    summary: bool = False

    @property
    def series(self) -> str:
        """The name on /metrics."""
        return f"asyncds_{self.role}_{self.name}"

    @property
    def text(self) -> str:
        """The help on /metrics: what it is, and the unit in brackets."""
        return f"{self.help} [{self.unit}]"

    @property
    def line_key(self) -> str:
        """The key in a line of metrics.jsonl, where the learner's have a prefix."""
        return f"learner/{self.key}" if self.role == "learner" else self.key

    @property
    def open(self) -> bool:
        """Whether a run brings the values of a label."""
        return any(not values for values in self.labels.values())

    def found_in(self, keys: Iterable[str]) -> list[tuple[Labels, str]]:
        """(labels, key) of the values that this metric has among `keys`.

        In the order in which the values of its labels are declared, or else ascending.
        """
        pattern = re.compile(_pattern(self.key, self.labels))
        matches = [match for match in map(pattern.fullmatch, keys) if match]
        return [(match.groupdict(), match.string) for match in sorted(matches, key=self._place)]

    def _place(self, match: re.Match[str]) -> list[tuple[float, str]]:
        """A number counts as what it is, not as a text."""
        return [
            (values.index(value), "")
            if (values := self.labels[label])
            else (float(value), "")
            if value.isdecimal()
            else (math.inf, value)
            for label, value in match.groupdict().items()
        ]


def _pattern(template: str, labels: Mapping[str, tuple[str, ...]]) -> str:
    """The regular expression of a template's keys."""
    return "".join(
        f"(?P<{part}>{'|'.join(map(re.escape, labels[part])) or '[^/]+'})"
        if i % 2
        else re.escape(part)
        for i, part in enumerate(_LABEL.split(template))
    )
