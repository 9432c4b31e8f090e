"""`asyncds compare`: several runs against each other, on the terminal and as files."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asyncds.cli.compare_view import comparison_view
from asyncds.compare.comparison import NotComparableError, compare
from asyncds.compare.report import write_comparison
from asyncds.compare.rows import RowsError, read_runs
from asyncds.compare.runs import LeftOut, NotARunError, RunResult
from asyncds.launch.errors import UserError


def compare_command(
    paths: Sequence[Path],
    *,
    baseline: str | None,
    output: Path | None,
    pairs: bool,
    over: str | None = None,
) -> None:
    """Print the comparison, and write it if there is an output directory.

    over: a dotted setting whose values become columns.

    Raises UserError for paths without runs, runs that can't be compared, unknown baselines and
    settings.
    """
    try:
        read = read_runs(paths)
        runs = [one for one in read if isinstance(one, RunResult)]
        left_out = [one for one in read if isinstance(one, LeftOut)]
        if not runs:
            raise UserError(*(f"{one.path} can't be compared: {one.reason}" for one in left_out))
        comparison = compare(runs, over=over, baseline=baseline)
    except (NotARunError, RowsError, NotComparableError) as error:
        raise UserError(str(error)) from error
    console = Console()
    console.print(comparison_view(comparison, pairs=pairs, width=console.width))
    for one in left_out:
        console.print(Text(f"left out: {one.path}: {one.reason}", style="yellow"))
    if output is not None:
        try:
            written = write_comparison(comparison, left_out, output)
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror}") from error
        for path in written:
            print(path)
