"""Tiny base models: 0.5 M-parameter Qwen2 models that have learnt a little of one task.

They stand in for a real base model where none can be downloaded: an ordinary Hugging Face
directory, read with ``from_pretrained`` like any other. One is made by supervised training on
solutions, then on a mixture with "babble" (answers of the right form that ignore what is asked), so
that it solves a problem now and then and leaves reinforcement learning something to do.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from asyncds.tasks.countdown.problems import Space
from asyncds.tiny import calculator, countdown, knights_knaves
from asyncds.tiny.demonstrations import Demonstrations, Group, demonstrations
from asyncds.tiny.recipe import Recipe, copy_shipped, is_shipped, is_there, place
from asyncds.tiny.tokenizer import save_tokenizer, word_tokenizer

MAX_LENGTH = 256
LESSONS = {"countdown": countdown, "calculator": calculator, "knights_knaves": knights_knaves}

Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps in all, loss)."""


def make_tiny_model(
    out: Path,
    *,
    recipe: Recipe | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    remake: bool = False,
) -> None:
    """Train the model and write it to the directory ``out``; return at once if it is there.

    The one that the package has is copied instead, unless ``remake``.

    The directory appears complete or not at all. threads: of torch, None for torch's own choice;
    more than there are idle cores is far slower than one.
    Raises FileExistsError where ``out`` holds anything but a model of this recipe.
    """
    recipe = recipe or Recipe()
    if not remake and is_shipped(recipe):
        copy_shipped(out)
    if is_there(out, recipe):
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
    if is_there(out, recipe):
        return
    tokenizer = word_tokenizer(LESSONS[recipe.task].WORDS, max_length=MAX_LENGTH)
    _save(out, _untrained(tokenizer, seed=seed), tokenizer, recipe)


def taught(recipe: Recipe) -> Iterator[Group]:
    """The problems and solutions of a recipe."""
    left_out = {"held_out": recipe.held_out, "seed": recipe.task_seed}
    if recipe.task != "knights_knaves":
        lesson = calculator if recipe.task == "calculator" else countdown
        space = Space(operands=recipe.size, max_number=recipe.max_number)
        return lesson.taught(space, **left_out)
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
        loss = answer_loss(model, prompts, answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, loss.item())
    model.eval()


def answer_loss(
    model: Qwen2ForCausalLM, prompts: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens (prompts [B, P], answers [B, A]), in nats."""
    ids = torch.cat([prompts, answers[:, :-1]], dim=1)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=answers.shape[1]).logits
    return F.cross_entropy(
        logits.flatten(0, 1), answers.flatten(), ignore_index=model.config.pad_token_id
    )


def _save(
    out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> None:
    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        (partial / "model.safetensors").chmod(0o644)  # written for the owner alone
        save_tokenizer(tokenizer, partial)

    place(out, recipe, write)
