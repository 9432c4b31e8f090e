"""``python -m asyncds.tiny OUT``: make a tiny base model."""

from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asyncds.tiny.model import TinyTask, make_tiny_model, tiny_recipe


def main(
    out: Path,
    *,
    task: TinyTask = "countdown",
    operands: int = 3,
    max_number: int = 10,
    seed: int = 0,
    held_out: int = 128,
    threads: int | None = None,
) -> None:
    """Train a tiny model of a task and write it to OUT, unless it is there already."""
    size = operands if task == "countdown" else 3
    recipe = tiny_recipe(task, size=size, max_number=max_number, seed=seed, held_out=held_out)
    columns = (
        TextColumn("tiny base model"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        shown = bar.add_task("", total=None, loss=float("nan"))
        make_tiny_model(
            out,
            recipe=recipe,
            threads=threads,
            progress=lambda done, steps, loss: bar.update(
                shown, completed=done, total=steps, loss=loss
            ),
        )


if __name__ == "__main__":
    typer.run(main)
