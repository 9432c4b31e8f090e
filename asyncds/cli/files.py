"""Commands that make files which runs need: keys, and tiny base models."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asyncds.launch.errors import UserError


def keys(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the keys.")],
    name: Annotated[
        list[str] | None, typer.Option(help="A client; several: --name A --name B.")
    ] = None,
) -> None:
    """Make keys for encrypted links: the coordinator's, unless OUT has them, and each client's."""
    from asyncds.transport.keys import KeyFileError, make_keys

    try:
        for path in make_keys(out, name or ["client"]):
            print(path)
    except KeyFileError as error:
        raise UserError(str(error)) from error


def tiny_model(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the model.")],
    task: Annotated[
        Literal["countdown", "calculator", "knights_knaves"], typer.Option(help="What it learns.")
    ] = "countdown",
    operands: Annotated[
        int, typer.Option(min=3, max=4, help="How many numbers a Countdown problem has.")
    ] = 3,
    max_number: Annotated[
        int, typer.Option(min=2, max=30, help="Largest number of a Countdown problem.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Of its weights and its data.")] = 0,
    held_out: Annotated[
        int, typer.Option(min=0, help="Problems not taught: a run's n_eval + n_validation.")
    ] = 128,
    clean_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps on right answers; default by task and size.")
    ] = None,
    babble_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps on a mixture of right and wrong answers after these."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    remake: Annotated[
        bool, typer.Option("--remake", help="Train the default one too, instead of copying it.")
    ] = False,
) -> None:
    """Make a tiny base model (minutes), unless OUT is one. The default one is in the package."""
    from asyncds.tiny.__main__ import main as make

    try:
        make(
            out,
            task=task,
            operands=operands,
            max_number=max_number,
            seed=seed,
            held_out=held_out,
            clean_steps=clean_steps,
            babble_steps=babble_steps,
            threads=threads,
            remake=remake,
        )
    except FileExistsError as error:
        raise UserError(str(error)) from error
