"""The commands that read a run's journal: `asyncds inspect` and `asyncds report`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from asyncds.launch.errors import UserError

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def inspect(
    run: RunDirectory,
    step: Annotated[str, typer.Option(help="Of batch 3, or of 3-8; 1 is the first.")] = "",
    evaluation: Annotated[int | None, typer.Option(help="Of the evaluation with this id.")] = None,
    set_name: Annotated[
        str | None, typer.Option("--set", help="Of this task, or evaluation set.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Sampled by these weights.")] = None,
    correct: Annotated[
        bool | None, typer.Option("--correct/--incorrect", help="Right or wrong ones only.")
    ] = None,
    purpose: Annotated[
        Literal["train", "eval"] | None, typer.Option(help="Training or evaluation.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(help="Ended by this limit (turns …), or without score (timeout …)."),
    ] = None,
    lag: Annotated[int | None, typer.Option(min=0, help="At least so many versions old.")] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="At least so many turns.")] = None,
    text: Annotated[str | None, typer.Option(help="With this text in it.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many; default 20, 200 for a page.")
    ] = None,
    tokens: Annotated[
        Literal["logprob", "version"] | None,
        typer.Option(help="Colour tokens by this; with --json, list them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to read them on.")
    ] = None,
) -> None:
    """Read rollouts from the journal of RUN, turn by turn."""
    from itertools import islice

    from asyncds.cli.inspect import (
        Filter,
        count_deleted,
        read_completions,
        steps_of,
        table,
        write_page,
    )

    try:
        steps = steps_of(step) if step else None
    except ValueError:
        print(f"--step {step}: give a step such as 3, or a range such as 3-8", file=sys.stderr)
        raise typer.Exit(2) from None
    only = Filter(
        steps=steps,
        evaluation=evaluation,
        set=set_name,
        version=version,
        correct=correct,
        purpose=purpose,
        reason=reason,
        lag=lag,
        turns=turns,
        text=text,
    )
    singles = sys.maxsize if html or tokens else 0
    with _reading(run):
        most = limit or (200 if html else 20)
        rows = list(islice(read_completions(run, only, singles=singles), most))
        deleted = count_deleted(run, only)
        if html and rows:
            write_page(run, rows, html)
    if not rows:
        if not deleted:
            print("no rollout matches", file=sys.stderr)
    elif as_json:
        for row in rows:
            print(json.dumps(row))
    elif html:
        print(html)
    else:
        from rich.console import Console

        Console().print(table(rows, by=tokens))
    if deleted:
        print(
            f"the samples of {deleted} groups that match were deleted to keep the journal within "
            "coordinator.journal_gb; the numbers about them are in the journal",
            file=sys.stderr,
        )


def report(run: RunDirectory) -> None:
    """Write report.html into RUN."""
    from asyncds.telemetry.report.page import write_report

    with _reading(run):
        print(write_report(run))


@contextmanager
def _reading(run: Path) -> Iterator[None]:
    """Turn errors about what a run directory lacks into sentences for the person."""
    from asyncds.rollout.journal_file import JournalError

    if not (run / "config.yaml").exists():
        raise UserError(f"{run} is not a run directory: it has no config.yaml")
    try:
        yield
    except JournalError as error:
        raise UserError(str(error)) from error
