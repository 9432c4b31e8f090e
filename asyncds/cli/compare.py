"""`asyncds compare`: several runs against each other, on the terminal and as files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asyncds.cli.group_tables import group_tables
from asyncds.cli.series_tables import series_tables
from asyncds.launch.errors import UserError
from asyncds.telemetry.compare_report import write_comparison
from asyncds.telemetry.group_comparison import NotComparableError, compare_groups
from asyncds.telemetry.run_groups import group_runs
from asyncds.telemetry.run_results import (
    LeftOut,
    NotARunError,
    RunResult,
    find_runs,
    read_result,
)
from asyncds.telemetry.series_comparison import compare_series
from asyncds.telemetry.series_report import write_series


def compare_command(
    paths: Sequence[Path],
    *,
    baseline: str | None,
    output: Path | None,
    pairs: bool,
    over: str | None = None,
) -> None:
    """Print the comparison, and write it if there is an output directory. over: a dotted setting
    whose values become columns.

    Raises UserError for paths without runs, runs that can't be compared, unknown baselines and
    settings.
    """
    try:
        read = [read_result(run) for run in find_runs(paths)]
        runs = [one for one in read if isinstance(one, RunResult)]
        left_out = [one for one in read if isinstance(one, LeftOut)]
        if not runs:
            raise UserError(*(f"{one.path} can't be compared: {one.reason}" for one in left_out))
        if over is None:
            groups = compare_groups(group_runs(runs), baseline=baseline)
            shown, write = group_tables(groups, pairs=pairs), partial(write_comparison, groups)
        else:
            series = compare_series(runs, over=over, baseline=baseline)
            shown, write = series_tables(series, pairs=pairs), partial(write_series, series)
    except (NotARunError, NotComparableError) as error:
        raise UserError(str(error)) from error
    console = Console()
    console.print(shown)
    for one in left_out:
        console.print(Text(f"left out: {one.path}: {one.reason}", style="yellow"))
    if output is not None:
        try:
            written = write(left_out, output)
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror}") from error
        for path in written:
            print(path)
