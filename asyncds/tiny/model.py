"""Tiny base models: 0.5 M-parameter Qwen2 models that have learnt a little of one task.

They stand in for a real base model where none can be downloaded: an ordinary Hugging Face
directory, read with ``from_pretrained`` like any other. One is made by supervised training on
solutions, then on a mixture with "babble" (answers of the right form that ignore what is asked), so
that it solves a problem now and then and leaves reinforcement learning something to do.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from asyncds.tiny import countdown, knights_knaves
from asyncds.tiny.demonstrations import Demonstrations, Group, demonstrations
from asyncds.tiny.tokenizer import save_tokenizer, word_tokenizer

MAX_LENGTH = 256
RECIPE_FILE = "recipe.json"

TinyTask = Literal["countdown", "knights_knaves"]
LESSONS = {"countdown": countdown, "knights_knaves": knights_knaves}
MAX_NUMBER = 10

# docs/tasks.md has what models of these steps solve.
STEPS: dict[tuple[TinyTask, int], dict[str, int]] = {
    ("countdown", 3): {"clean_steps": 750, "babble_steps": 150},
    ("countdown", 4): {"clean_steps": 750, "babble_steps": 150},
    ("knights_knaves", 3): {"clean_steps": 250, "babble_steps": 60},
}

Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps in all, loss)."""


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
) -> Recipe:
    """The recipe of a task's base model, tuned for each task and size."""
    return Recipe(
        task=task,
        size=size,
        max_number=max_number,
        seed=seed,
        held_out=held_out,
        **STEPS[task, size],
    )


def make_tiny_model(
    out: Path,
    *,
    recipe: Recipe | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the model and write it to the directory ``out``; return at once if it is there.

    The directory appears complete or not at all. threads: of torch, None for torch's own choice;
    more than there are idle cores is far slower than one.
    Raises FileExistsError where ``out`` holds anything but a model of this recipe.
    """
    recipe = recipe or Recipe()
    if _is_there(out, recipe):
        return
    lesson = LESSONS[recipe.task]
    tokenizer = word_tokenizer(lesson.WORDS, max_length=MAX_LENGTH)
    model = _untrained(tokenizer, seed=recipe.seed)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        _train(model, demonstrations(taught(recipe), tokenizer), recipe, progress or _silent)
    finally:
        torch.set_num_threads(threads_before)
    _save(out, model, tokenizer, recipe)


def save_untrained(out: Path, *, seed: int = 0) -> None:
    """Write the Countdown model with random weights, for tests that need no more."""
    recipe = Recipe(seed=seed, clean_steps=0, babble_steps=0)
    if _is_there(out, recipe):
        return
    tokenizer = word_tokenizer(LESSONS[recipe.task].WORDS, max_length=MAX_LENGTH)
    _save(out, _untrained(tokenizer, seed=seed), tokenizer, recipe)


def taught(recipe: Recipe) -> Iterator[Group]:
    """The problems and solutions of a recipe."""
    left_out = {"held_out": recipe.held_out, "seed": recipe.task_seed}
    if recipe.task == "countdown":
        space = countdown.Space(operands=recipe.size, max_number=recipe.max_number)
        return countdown.taught(space, **left_out)
    return knights_knaves.taught(recipe.size, **left_out)


def _silent(done: int, steps: int, loss: float) -> None:
    pass


def _untrained(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.04,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def _train(
    model: Qwen2ForCausalLM, data: Demonstrations, recipe: Recipe, progress: Progress
) -> None:
    """AdamW with a cosine learning rate that reaches zero at the last step, clean or babble."""
    steps = recipe.clean_steps + recipe.babble_steps
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / recipe.warmup_steps)
            * 0.5
            * (1 + math.cos(math.pi * step / steps))
        ),
    )
    model.train()
    for step in range(steps):
        babble = 0.0 if step < recipe.clean_steps else recipe.babble
        prompts, answers = map(torch.from_numpy, data.batch(rng, recipe.batch_size, babble=babble))
        loss = _answer_loss(model, prompts, answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, loss.item())
    model.eval()


def _answer_loss(
    model: Qwen2ForCausalLM, prompts: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens (prompts [B, P], answers [B, A]), in nats."""
    ids = torch.cat([prompts, answers[:, :-1]], dim=1)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=answers.shape[1]).logits
    return F.cross_entropy(
        logits.flatten(0, 1), answers.flatten(), ignore_index=model.config.pad_token_id
    )


def _is_there(out: Path, recipe: Recipe) -> bool:
    if not out.exists():
        return False
    file = out / RECIPE_FILE
    made_by = json.loads(file.read_text()) if file.exists() else {}
    if made_by and {**asdict(Recipe()), **made_by} == asdict(recipe):
        return True
    raise FileExistsError(
        f"{out} exists and is not a model of this recipe: remove it or choose another directory"
    )


def _save(
    out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> None:
    """Write beside ``out``, then rename; another process may have been faster with the same."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model.save_pretrained(partial)
        (partial / "model.safetensors").chmod(0o644)  # written for the owner alone
        save_tokenizer(tokenizer, partial)
        (partial / RECIPE_FILE).write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        partial.chmod(0o755)
        if not _is_there(out, recipe):
            os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
