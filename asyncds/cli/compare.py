"""`asyncds compare`: several runs against each other, on the terminal and as files."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as View
from rich.text import Text

from asyncds.cli.errors import UserError
from asyncds.telemetry.compare_report import (
    EXPLANATION,
    PAIRED,
    pair_rows,
    write_comparison,
)
from asyncds.telemetry.group_comparison import (
    GroupComparison,
    NotComparableError,
    Table,
    compare_groups,
)
from asyncds.telemetry.run_groups import group_runs
from asyncds.telemetry.run_results import (
    LeftOut,
    NotARunError,
    RunResult,
    find_runs,
    read_result,
)

WIDEST_LABEL = 24
"""Where a label is longer, tables show numbers, and a key before them."""

Names = dict[str, str]


def compare_command(
    paths: Sequence[Path], *, baseline: str | None, output: Path | None, pairs: bool
) -> None:
    """Print the comparison, and write it if there is an output directory.

    Raises UserError for paths without runs, runs that can't be compared and unknown baselines.
    """
    try:
        read = [read_result(run) for run in find_runs(paths)]
        runs = [one for one in read if isinstance(one, RunResult)]
        left_out = [one for one in read if isinstance(one, LeftOut)]
        if not runs:
            raise UserError(*(f"{one.path} can't be compared: {one.reason}" for one in left_out))
        comparison = compare_groups(group_runs(runs), baseline=baseline)
    except (NotARunError, NotComparableError) as error:
        raise UserError(str(error)) from error
    console = Console()
    console.print(tables(comparison, pairs=pairs))
    for one in left_out:
        console.print(Text(f"left out: {one.path}: {one.reason}", style="yellow"))
    if output is not None:
        try:
            written = write_comparison(comparison, left_out, output)
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror}") from error
        for path in written:
            print(path)


def tables(comparison: GroupComparison, *, pairs: bool) -> RenderableType:
    """Means, then differences to the baseline, for every temperature, and what the runs took."""
    labels = [group.label for group in comparison.groups]
    parts: list[RenderableType] = [Text(EXPLANATION, style="dim"), Text()]
    names = {label: label for label in labels}
    if max(map(len, labels)) > WIDEST_LABEL:
        names = {label: str(i) for i, label in enumerate(labels, 1)}
        parts += [_key(names), Text()]
    for table in [*comparison.results, comparison.costs]:
        parts += [_means(table, names), Text()]
        if table.paired:
            parts += [_differences(table, names, comparison.baseline), Text()]
        if pairs and table.paired:
            parts += [_pairs(table, names, comparison), Text()]
    return Group(*parts)


def _key(names: Names) -> View:
    view = View.grid(padding=(0, 2, 0, 0))
    for label, name in names.items():
        view.add_row(Text(name, style="bold"), Text(label))
    return view


def _means(table: Table, names: Names) -> View:
    view = _view(table, table.title, "runs")
    if table.base:
        cells = [_cell(m.text(table.base.values.get(m.key))) for m in table.metrics]
        view.add_row("base", str(table.base.n), *cells, style="dim")
    for row in table.rows:
        cells = [_cell(m.text(row.values.get(m.key))) for m in table.metrics]
        view.add_row(Text(names[row.label]), str(row.n), *cells)
    return view


def _differences(table: Table, names: Names, baseline: str) -> View:
    name = baseline if names[baseline] == baseline else f"group {names[baseline]}"
    view = _view(table, PAIRED.format(baseline=name), "pairs")
    styles = {"better": "green", "worse": "red", "": ""}
    for row in table.paired:
        values = [(m, row.values.get(m.key)) for m in table.metrics]
        cells = [_cell(m.text(v, signed=True), styles[m.verdict(v)]) for m, v in values]
        view.add_row(Text(names[row.label]), str(len(row.pairs)), *cells)
    return view


def _cell(text: str, style: str = "") -> Text:
    """Where there is no room for `40.2 ±1.3` on one line, it breaks before the ±."""
    return Text(text.replace("± ", "±"), style=style)


def _pairs(table: Table, names: Names, comparison: GroupComparison) -> View:
    view = _view(table, "Every pair", "base", "seed")
    for label, base, seed, cells in pair_rows(comparison, table):
        view.add_row(Text(names[label]), Text(base), str(seed), *cells)
    return view


def _view(table: Table, title: str, *between: str) -> View:
    view = View(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(title, style="bold"),
        title_justify="left",
        header_style="bold",
    )
    view.add_column("group", no_wrap=True)
    for name in between:
        view.add_column(name, justify="right", no_wrap=True)
    for metric in table.metrics:
        view.add_column(
            metric.name.replace(", ", "\n"), justify="right", overflow="fold", min_width=6
        )
    return view
