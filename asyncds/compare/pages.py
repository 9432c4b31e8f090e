"""Pages whose tables and pictures are made from a file of rows.

A page says what it shows where it shows it, in a comment; what is between that and `<!-- end -->`
is written anew by `python -m asyncds.compare.pages PAGE.md …`:

    <!-- rows: diversity.jsonl
    metrics: {pass@1 T1: Pass@1, distinct_correct T1: distinct}
    less: GRPO
    -->
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from yaml import YAMLError, safe_load

from asyncds.compare.comparison import Comparison, NotComparableError, compare
from asyncds.compare.metrics import metric_of
from asyncds.compare.report import drawn, markdown_table
from asyncds.compare.rows import read_rows
from asyncds.compare.runs import RunResult
from asyncds.compare.tables import Column, Table, less, means
from asyncds.telemetry.files import replace_file

BLOCK = re.compile(r"(<!-- (rows: .*?)-->\n).*?(<!-- end -->)", re.DOTALL)


class Shown(BaseModel):
    """Contents of a block of a page."""

    model_config = ConfigDict(extra="forbid")

    rows: str
    """The file, relative to the page."""
    over: str | None = None
    """A setting whose values are columns; the block then has one metric."""
    values: dict[str, str] | None = None
    """Which of them, in this order, and their headings."""
    metrics: dict[str, str] = {}
    """Columns: ids (`pass@4 T0.3`, `ess`) and their headings."""
    groups: list[str] | None = None
    """Labels of the groups that are shown, in this order; default: all."""
    less: str | None = None
    """Differences to this group, instead of means."""
    base: bool = True
    """Whether a row of means shows the base models."""
    bold: list[str] = []
    """Labels in bold."""
    picture: str | None = None
    """Instead of a table: the picture of the comparison, written to this file beside the page."""
    alt: str = ""
    """What the picture shows, in words."""


class PageError(Exception):
    """A block of a page can't be made."""


def made(page: Path) -> dict[Path, str]:
    """The page, and the pictures beside it, as they are to be: by their paths.

    Raises PageError for a block that asks for what isn't there.
    """
    files: dict[Path, str] = {}
    cache: dict[tuple[str, ...], Comparison] = {}

    def block(found: re.Match[str]) -> str:
        try:
            shown = Shown.model_validate(safe_load(found[2]))
            comparison = _comparison(page.parent, shown, cache)
            if shown.picture:
                files[page.parent / shown.picture] = drawn(comparison)
                body = f"![{shown.alt}]({shown.picture})"
            else:
                body = _table(comparison, shown)
        except (YAMLError, NotComparableError, ValueError) as error:
            raise PageError(f"{page}: {found[2].splitlines()[0]} …: {error}") from error
        return f"{found[1]}\n{body}\n\n{found[3]}"

    text = BLOCK.sub(block, page.read_text("utf-8"))
    return {page: text, **files}


def main(paths: Sequence[str]) -> None:
    """Write the pages and their pictures."""
    for path in paths:
        for file, text in made(Path(path)).items():
            replace_file(file, text)


def _comparison(folder: Path, shown: Shown, cache: dict[tuple[str, ...], Comparison]) -> Comparison:
    groups = shown.groups if shown.picture else None
    key = (shown.rows, shown.over or "", shown.less or "", *(groups or ()))
    if key not in cache:
        runs = list(read_rows(folder / shown.rows).values())
        if not runs:
            raise ValueError(f"{folder / shown.rows} has no runs")
        found = compare(runs, over=shown.over, baseline=shown.less)
        if groups is not None:
            found = compare(_of_groups(found, groups), over=shown.over, baseline=shown.less)
        cache[key] = found
    return cache[key]


def _of_groups(comparison: Comparison, labels: Sequence[str]) -> list[RunResult]:
    places = _places(comparison, labels)
    return [run for place in places for run in comparison.groups[place].runs]


def _places(comparison: Comparison, labels: Sequence[str]) -> list[int]:
    there = [group.label for group in comparison.groups]
    if unknown := [label for label in labels if label not in there]:
        raise ValueError(f"no group is called {unknown[0]!r}: there is {', '.join(there)}")
    return [there.index(label) for label in labels]


def _table(comparison: Comparison, shown: Shown) -> str:
    columns = _columns(comparison, shown)
    table: Table | None
    if shown.less is None:
        table = means(comparison, "", columns, [("base", columns)] if shown.base else ())
    else:
        table = less(comparison, "baseline", "", columns)
    if table is None:
        raise ValueError("no two runs are a pair")
    rows = table.rows
    if shown.groups is not None:
        places = [None, *_places(comparison, shown.groups)]
        rows = tuple(row for place in places for row in rows if row.group == place)
    head = ["" if shown.less is None else f"less {shown.less}", *(c.heading for c in columns)]
    texts = [[row.label, *(cell.text for cell in row.cells)] for row in rows]
    text = markdown_table(head, texts)
    for label in shown.bold:
        text = text.replace(f"\n| {label} |", f"\n| **{label}** |")
    return text


def _columns(comparison: Comparison, shown: Shown) -> list[Column]:
    metrics = {metric_of(id): heading for id, heading in shown.metrics.items()}
    if comparison.over is None:
        return [Column(heading=heading, metric=m) for m, heading in metrics.items()]
    if len(metrics) != 1:
        raise ValueError("a table over a setting shows one metric")
    values = shown.values or {value: value for value in comparison.values}
    if unknown := values.keys() - set(comparison.values):
        raise ValueError(f"{comparison.over} is never {', '.join(unknown)}")
    [metric] = metrics
    return [
        Column(heading=heading, metric=metric, at=comparison.values.index(value))
        for value, heading in values.items()
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
