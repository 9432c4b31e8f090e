"""The commands `asyncds task …`."""

from pathlib import Path
from typing import Annotated

import typer

task_app = typer.Typer(help="Look at a task before it is trained on.", no_args_is_help=True)


@task_app.callback()
def task() -> None:
    """Look at a task before it is trained on."""


@task_app.command("check")
def task_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of a run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Overrides such as task.seed=1."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many are drawn, of each split.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Show what each task of FILE asks, try its reward, and say what is wrong (exit code 1)."""
    from rich.console import Console

    from asyncds.cli.task_check import check_tasks
    from asyncds.cli.task_check_view import view
    from asyncds.config.load import load_config

    reports = check_tasks(load_config(file, overrides or []), rows=rows, seed=seed)
    console = Console(highlight=False)
    for i, report in enumerate(reports):
        console.print(*([""] if i else []), view(report))
    raise typer.Exit(1 if any(report.problems for report in reports) else 0)
