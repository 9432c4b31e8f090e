"""How a tiny base model is made, and where a finished one goes."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

RECIPE_FILE = "recipe.json"
SHIPPED = Path(__file__).with_name("shipped")
"""The model of the default recipe, which is part of the package (made with one thread)."""
MAX_NUMBER = 10

TinyTask = Literal["countdown", "calculator", "knights_knaves"]

# docs/tasks.md has what models of these steps solve.
STEPS: dict[tuple[TinyTask, int], dict[str, int]] = {
    ("countdown", 3): {"clean_steps": 750, "babble_steps": 150},
    ("countdown", 4): {"clean_steps": 750, "babble_steps": 150},
    ("calculator", 3): {"clean_steps": 500, "babble_steps": 100, "batch_size": 128},
    ("knights_knaves", 3): {"clean_steps": 250, "babble_steps": 60},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the model is made. Equal recipes make equal models (on one machine, one thread count).

    task, size: what is learnt, and how many operands or people its problems have.
    max_number: the largest number of a Countdown problem.
    seed: of the initial weights and the order of the data. held_out, task_seed: the problems left
    out of the training data; a task of that seed holds out the same ones, so ``held_out`` must be
    at least its n_eval + n_validation.
    babble: the share of answers that ignore what is asked during the last ``babble_steps`` steps.
    """

    task: TinyTask = "countdown"
    size: int = 3
    max_number: int = MAX_NUMBER
    seed: int = 0
    held_out: int = 128
    task_seed: int = 0
    clean_steps: int = 750
    babble_steps: int = 150
    babble: float = 0.6
    batch_size: int = 256
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0


def tiny_recipe(
    task: TinyTask,
    *,
    size: int,
    max_number: int = MAX_NUMBER,
    seed: int = 0,
    held_out: int = 128,
    clean_steps: int | None = None,
    babble_steps: int | None = None,
) -> Recipe:
    """The recipe of a task's base model.

    clean_steps, babble_steps: default, those that were tuned for its task and size.
    """
    given = {"clean_steps": clean_steps, "babble_steps": babble_steps}
    steps = STEPS[task, size] | {key: n for key, n in given.items() if n is not None}
    return Recipe(
        task=task,
        size=size,
        max_number=max_number,
        seed=seed,
        held_out=held_out,
        **steps,
    )


def is_shipped(recipe: Recipe) -> bool:
    """Whether the package has the model of this recipe."""
    return _made_by(SHIPPED) == asdict(recipe)


def copy_shipped(out: Path) -> None:
    """Copy the package's model to the directory ``out``, unless it is there.

    Raises FileExistsError where ``out`` holds anything else.
    """
    recipe = Recipe()
    if not is_there(out, recipe):
        place(out, recipe, lambda partial: shutil.copytree(SHIPPED, partial, dirs_exist_ok=True))


def is_there(out: Path, recipe: Recipe) -> bool:
    """Whether ``out`` holds the model of this recipe.

    Raises FileExistsError where it holds anything else.
    """
    if not out.exists():
        return False
    if _made_by(out) == asdict(recipe):
        return True
    raise FileExistsError(
        f"{out} exists and is not a model of this recipe: remove it or choose another directory"
    )


def place(out: Path, recipe: Recipe, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a directory beside ``out``, then rename it.

    ``out`` appears complete or not at all. Another process may have been faster with the same.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        write(partial)
        (partial / RECIPE_FILE).write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        partial.chmod(0o755)
        if not is_there(out, recipe):
            os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _made_by(directory: Path) -> dict[str, object]:
    """The recipe that a model was made by; a file that leaves a field out has its default."""
    file = directory / RECIPE_FILE
    made_by = json.loads(file.read_text()) if file.exists() else {}
    return {**asdict(Recipe()), **made_by} if made_by else {}
