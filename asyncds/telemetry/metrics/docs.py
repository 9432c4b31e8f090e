"""The tables of docs/metrics.md, written anew between the lines that name them.

The command is `python -m asyncds.telemetry.metrics.docs docs/metrics.md`.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from asyncds.telemetry.metrics.catalogue import CATALOGUE, exported, metrics
from asyncds.telemetry.metrics.declaration import Metric, Role

_TABLE = re.compile(r"(<!-- metrics: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables as the declarations have them. Raises KeyError for others."""
    tables = {role: _series(role) for role in CATALOGUE} | {"lines": _lines(), "labels": _labels()}
    return _TABLE.sub(lambda m: f"{m[1]}{_table(tables[m[2]])}{m[4]}", page)


Rows = list[tuple[str, ...]]


def _series(role: Role) -> Rows:
    head = ("series", "kind", "labels", "what, and unit", "key in metrics.jsonl")
    return [
        head,
        *((f"`{m.series}`", m.kind, ", ".join(m.labels), m.text, _key(m)) for m in exported(role)),
    ]


def _key(metric: Metric) -> str:
    return f"`{metric.line_key}`" if metric.record == "batch" else ""


def _lines() -> Rows:
    """The keys of a line of metrics.jsonl that are no values of exported series."""
    return [
        ("key", "what, and unit"),
        *((_key(m), m.text) for m in metrics() if m.record == "batch" and not m.name),
    ]


def _labels() -> Rows:
    """The labels whose values are known beforehand."""
    return [("series", "label", "values"), *_label_rows()]


def _label_rows() -> Iterator[tuple[str, ...]]:
    for metric in metrics():
        for label, values in metric.labels.items():
            if metric.name and values:
                yield f"`{metric.series}`", label, ", ".join(f"`{value}`" for value in values)


def _table(rows: Rows) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text("utf-8")), "utf-8")
