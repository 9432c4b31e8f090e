"""``python -m asyncds.tasks.countdown OUT``: make the tiny base model."""

from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asyncds.tasks.countdown.tiny_model import Recipe, make_tiny_model


def main(out: Path, seed: int = 0, threads: int | None = None) -> None:
    """Train the tiny Countdown model and write it to OUT, unless it is there already."""
    columns = (
        TextColumn("tiny base model"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("", total=None, loss=float("nan"))
        make_tiny_model(
            out,
            recipe=Recipe(seed=seed),
            threads=threads,
            progress=lambda done, steps, loss: bar.update(
                task, completed=done, total=steps, loss=loss
            ),
        )


if __name__ == "__main__":
    typer.run(main)
