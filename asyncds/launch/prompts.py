"""Checks of a task's prompts with the model's tokenizer, which costs the seconds of loading it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from asyncds.config.schema import RunConfig
from asyncds.config.tasks import OneTask, data_sets, each_task, task_options
from asyncds.launch.model_directory import check_model
from asyncds.tasks.base import Row, Split, Task
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.registry import make_task

TRIED = 8
"""Prompts of each split."""


def prompt_problems(config: RunConfig) -> list[str]:
    """Whether prompts of each split can be encoded, and leave room for an answer.

    What is not on this machine is not fetched, so that nothing is said of it.
    """
    parts = each_task(config.task).items()
    return [why for where, part in parts for why in _problems(config, where, part)]


def _problems(config: RunConfig, where: str, settings: OneTask) -> list[str]:
    tokenizer = config.tokenizer or config.model
    if not all(Path(p).expanduser().exists() for p in (tokenizer, *data_sets(settings))):
        return []
    task = make_task(settings.kind, **task_options(settings, tokenizer=tokenizer))
    try:
        splits = {split: task.rows(split) for split in get_args(Split)}
    except Exception as error:  # a task of one's own raises what it likes
        return [f"{where}: its rows can't be made: {type(error).__name__}: {error}"]
    try:
        encoder = _load(tokenizer)
    except ValueError as error:
        return [str(error)]
    found = (_problem(config, task, s, rows, encoder, tokenizer) for s, rows in splits.items())
    return [f"{where}: {why}" for why in found if why][:1]  # others would say the same


def room_for_prompts(config: RunConfig) -> int | None:
    """Tokens that a prompt may have; None where that is not known."""
    longest = config.generator.max_model_len
    if longest is None:
        _, facts = check_model(config.model, config.tokenizer)
        longest = facts.positions if facts else None
    return None if longest is None else longest - config.sampling.max_tokens


def not_encoded(tokenizer: str, error: Exception) -> str:
    """A sentence about a prompt that a tokenizer could not encode."""
    why = f"{type(error).__name__}: {error}"
    return f"a prompt can't be encoded with the tokenizer of {tokenizer}: {why}"


def _problem(
    config: RunConfig,
    task: Task,
    split: Split,
    rows: Sequence[Row],
    encoder: Any,
    tokenizer: str,
) -> str:
    some = rows[:: -(-len(rows) // TRIED) or 1]
    try:
        lengths = [len(encode_prompt(task, row, encoder)) for row in some]
    except Exception as error:  # whatever a template or a tokenizer raises
        return f"{split}: {not_encoded(tokenizer, error)}"
    if lengths and not min(lengths):
        row = some[lengths.index(0)].index
        return f"{split}: row {row} has an empty prompt with the tokenizer of {tokenizer}"
    room = room_for_prompts(config)
    if lengths and room is not None and min(lengths) > room:
        return (
            f"{split}: all {len(lengths)} prompts that were tried have more than the {room} "
            f"tokens that sampling.max_tokens {config.sampling.max_tokens} leaves for them (the "
            f"shortest has {min(lengths)}): raise generator.max_model_len, or lower "
            "sampling.max_tokens"
        )
    return ""


def _load(tokenizer: str) -> Any:
    from asyncds.engine.tokenizer import load_tokenizer

    return load_tokenizer(str(Path(tokenizer).expanduser()))
