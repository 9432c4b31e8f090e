"""Rows of data sets as the rows of a task, whatever judges the answers."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from asyncds.config.tasks import DataSource
from asyncds.config.tasks import DataTask as Settings
from asyncds.tasks import base, source
from asyncds.tasks.base import Prompt, Row, Split, make_chat
from asyncds.tasks.dataset.examples import Example, Loaded, each, load
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.source import Source
from asyncds.tasks.splits import Rows, hold_out

log = logging.getLogger(__name__)

N_EVAL = 128
"""Rows held out where the configuration says neither which nor how many."""


class DataTask(base.Task):
    """Rows of data sets, put as the configuration says.

    tokenizer: a path or hub id, by which ``max_prompt_tokens`` counts. answer: column of the right
    answer, which every row must have; None where there is none.
    """

    def __init__(self, settings: Settings, *, answer: str | None, tokenizer: str | None) -> None:
        self._data = settings
        self._answer = answer
        self._tokenizer = tokenizer
        self.chat = make_chat(settings.chat.model_dump())

    @abstractmethod
    def _wanted(self, names: Sequence[str], origin: Source) -> set[str]:
        """The columns of a data set that answers are judged by. Raises ValueError."""

    def _kept(self, columns: dict[str, Any], where: str) -> dict[str, Any]:
        """Reduce these columns to what a row keeps. Raises ValueError for one without use."""
        return columns

    def rows(self, split: Split) -> Sequence[Row]:
        """The fields of a row are ``prompt``, ``answer``, and the ``columns`` to judge by."""
        return Rows(self._splits[split], _fields)

    def prompt(self, row: Row) -> Prompt:
        prompt = row.fields["prompt"]
        if not isinstance(prompt, str):
            return list(prompt)
        is_chat = self._data.prompt_style == "chat"
        return [{"role": "user", "content": prompt}] if is_chat else prompt

    def sets(self, split: Split) -> Sequence[tuple[str, int]]:
        """A set for each data set of ``eval``."""
        if split != "eval" or not self._data.eval:
            return ()
        evaluated = self._loaded[len(self._data.train) :]
        names = source.set_names([loaded.source for loaded in evaluated])
        return [*zip(names, (len(loaded.examples) for loaded in evaluated), strict=True)]

    @cached_property
    def _loaded(self) -> list[Loaded]:
        settings = self._data
        loaded = [self._load(origin) for origin in (*settings.train, *settings.eval)]
        for why in (one.sentence() for one in loaded):
            if why and settings.bad_rows == "refuse":
                raise ValueError(f"{why}: mend them, or set task.bad_rows to skip")
            if why:
                log.warning("%s: they are left out", why)
        return loaded

    def _load(self, origin: DataSource) -> Loaded:
        most = self._data.max_prompt_tokens
        loaded = load(
            Source(**origin.model_dump()),
            prompt=self._data.prompt,
            answer=self._answer,
            wanted=self._wanted,
            kept=self._kept,
        )
        if most is None or self._tokenizer is None:
            return loaded
        # Costs seconds, and a process that only scores does without.
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
        kept, bad = [], list(loaded.bad)
        for example in loaded.examples:
            n = len(encode_prompt(self, Row(0, _fields(example)), tokenizer))
            if n <= most:
                kept.append(example)
            else:
                bad.append(f"{example.where} has a prompt of {n} tokens, more than {most}")
        return Loaded(source=loaded.source, examples=kept, rows=loaded.rows, bad=bad)

    @cached_property
    def _splits(self) -> dict[Split, list[Example]]:
        settings = self._data
        n_sources = len(settings.train)
        train = [*each(self._loaded[:n_sources])]
        evaluated = [*each(self._loaded[n_sources:])]
        if not settings.train and evaluated:
            return {"train": [], "validation": [], "eval": evaluated}
        train = source.without(train, evaluated, key=lambda example: example.words)
        n_eval = 0 if settings.eval else settings.n_eval or N_EVAL
        n_held_out = n_eval + settings.n_validation
        if n_held_out >= len(train):
            raise ValueError(
                f"{len(train)} rows of task.train can be used and are not in task.eval, and "
                f"{n_held_out} are to be held out, which leaves none to train on: give more rows, "
                "lower task.n_eval or n_validation, or name other data in task.eval"
            )
        train, held_out = hold_out(train, n_held_out, seed=settings.seed)
        evaluated += held_out[:n_eval]
        train = source.without(train, [*evaluated, *held_out], key=lambda example: example.words)
        if not train or not evaluated:
            raise ValueError(f"no row is left for task.{'eval' if train else 'train'}")
        return {"train": train, "validation": held_out[n_eval:], "eval": evaluated}


def _fields(example: Example) -> dict[str, Any]:
    prompt = example.prompt if isinstance(example.prompt, str) else list(example.prompt)
    return {"prompt": prompt, "answer": example.answer, "columns": example.columns}
