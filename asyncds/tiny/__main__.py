"""``python -m asyncds.tiny OUT``: make a tiny base model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asyncds.tiny.recipe import TinyTask, copy_shipped, is_shipped, is_there, tiny_recipe

PLAIN_SECONDS = 10.0
"""Seconds between two lines where the output is not a terminal."""


def main(
    out: Path,
    *,
    task: TinyTask = "countdown",
    operands: int = 3,
    max_number: int = 10,
    seed: int = 0,
    held_out: int = 128,
    clean_steps: int | None = None,
    babble_steps: int | None = None,
    threads: int | None = None,
    remake: bool = False,
) -> None:
    """Train a tiny model of a task and write it to OUT, unless it is there already.

    The default one comes with the package and is copied, unless ``remake``.
    """
    size = 3 if task == "knights_knaves" else operands
    recipe = tiny_recipe(
        task,
        size=size,
        max_number=max_number,
        seed=seed,
        held_out=held_out,
        clean_steps=clean_steps,
        babble_steps=babble_steps,
    )
    if is_there(out, recipe):
        return
    if is_shipped(recipe) and not remake:
        copy_shipped(out)
        print(f"tiny base model: copied to {out}")
        return
    from asyncds.tiny.model import make_tiny_model

    with _shown() as progress:
        make_tiny_model(out, recipe=recipe, threads=threads, progress=progress, remake=True)


@contextmanager
def _shown() -> Iterator[Callable[[int, int, float], None]]:
    """A function that shows the progress: as a bar on a terminal, else a line now and then."""
    console = Console()
    if not console.is_terminal:
        began = last = time.monotonic()
        print("tiny base model: training starts, some minutes on two cores", flush=True)

        def line(done: int, steps: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PLAIN_SECONDS or done == steps:
                last = now
                left = (now - began) / done * (steps - done)
                print(
                    f"tiny base model: step {done}/{steps}, loss {loss:.3f}, {left:.0f} s left",
                    flush=True,
                )

        yield line
        return
    columns = (
        TextColumn("tiny base model"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("", total=None, loss=float("nan"))
        yield lambda done, steps, loss: bar.update(shown, completed=done, total=steps, loss=loss)


if __name__ == "__main__":
    typer.run(main)
