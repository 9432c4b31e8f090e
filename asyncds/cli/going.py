"""The commands about a run that goes on: `asyncds attach`, `asyncds stop`, `asyncds scale`."""

from pathlib import Path
from typing import Annotated

import typer

from asyncds.launch.errors import UserError

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def attach(run: RunDirectory) -> None:
    """Follow RUN, wherever it was started, until it is over; Ctrl-C leaves it alone."""
    from asyncds.cli.attach import attach_command

    raise typer.Exit(attach_command(run))


def stop(run: RunDirectory) -> None:
    """End RUN in good order: checkpoint, drain, summary; it can go on later."""
    from asyncds.cli.attach import attach_command

    raise typer.Exit(attach_command(run, stop=True))


def scale(
    run: RunDirectory,
    generators: Annotated[str, typer.Argument(metavar="generators=N", help="How many.")],
) -> None:
    """Change the number of generators of RUN while it goes on."""
    from asyncds.launch.scaling import ask_for

    name, _, number = generators.partition("=")
    if name != "generators" or not number.isdecimal() or int(number) < 1:
        raise UserError(f"{generators} is not generators=N with a number of at least 1")
    print(ask_for(run, int(number)))
