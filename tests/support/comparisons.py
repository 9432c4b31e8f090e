"""Comparisons of synthetic runs, and what their tables hold."""

from pathlib import Path
from typing import Any

import pytest

from asyncds.compare.comparison import Comparison, compare
from asyncds.compare.estimate import Estimate
from asyncds.compare.runs import RunResult, find_runs, read_result
from asyncds.compare.tables import Row, Table, sections


def results(root: Path) -> list[RunResult]:
    """The runs below a folder that can be compared."""
    read = [read_result(path) for path in find_runs([root])]
    return [one for one in read if isinstance(one, RunResult)]


def compared(root: Path, baseline: str | None = None, over: str | None = None) -> Comparison:
    """A comparison of all of them."""
    return compare(results(root), over=over, baseline=baseline)


def tables(comparison: Comparison) -> dict[str, Table]:
    """All tables by their titles, in order."""
    return {t.title: t for section in sections(comparison) for t in section.tables}


def row(table: Table, label: str) -> Row:
    """A row by its label."""
    return next(r for r in table.rows if r.label == label)


def values(table: Table, label: str) -> list[Estimate | None]:
    """The estimates of a row."""
    return [cell.value for cell in row(table, label).cells]


def means(table: Table, label: str) -> list[Any]:
    """The means of a row, to compare with numbers."""
    return [None if value is None else pytest.approx(value.mean) for value in values(table, label)]
