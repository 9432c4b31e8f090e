"""A data set and a reward as a task."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from asyncds.config.tasks import DatasetTask as Settings
from asyncds.config.tasks import DataSource
from asyncds.tasks import base, data, source
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.dataset.examples import Example, Loaded, each, load
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.rewards.judge import Judge
from asyncds.tasks.rewards.reward import Asked
from asyncds.tasks.source import Source
from asyncds.tasks.splits import Rows, hold_out

log = logging.getLogger(__name__)

N_EVAL = 128
"""Rows held out where the configuration says neither which nor how many."""


class DatasetTask(base.Task):
    """Rows of data sets, put as the configuration says and judged by rewards.

    options: fields of ``asyncds.config.tasks.DatasetTask``. tokenizer: a path or hub id, by which
    ``max_prompt_tokens`` counts.

    Answers are the same if the reward that says what is correct says so, or else if they are
    written the same.
    """

    name = "dataset"
    equivalences = ("written",)
    equivalence = "written"

    def __init__(self, *, tokenizer: str | None = None, **options: Any) -> None:
        self._settings = settings = Settings.model_validate({"kind": "dataset", **options})
        self._tokenizer = tokenizer
        self.chat = make_chat(settings.chat.model_dump())
        rewards = settings.rewards if settings.reward is None else [settings.reward]
        self._judge = Judge(rewards, correct_by=settings.correct_by, correct_at=settings.correct_at)
        self.reward_parts = self._judge.names

    def rows(self, split: Split) -> Sequence[Row]:
        """The fields of a row are ``prompt``, ``answer``, and the ``columns`` that rewards use."""
        return Rows(self._splits[split], _fields)

    def prompt(self, row: Row) -> Prompt:
        prompt = row.fields["prompt"]
        if not isinstance(prompt, str):
            return list(prompt)
        is_chat = self._settings.prompt_style == "chat"
        return [{"role": "user", "content": prompt}] if is_chat else prompt

    def score(self, row: Row, completion: str) -> Score:
        """Raises whatever a reward raises: it is called under the limits of a scorer alone."""
        return self._judge.score(
            Asked(
                completion=completion,
                prompt=self.prompt(row),
                answer=row.fields["answer"],
                columns=row.fields["columns"],
            )
        )

    def own_answers(self, row: Row) -> Sequence[str]:
        """The answer in the forms that are usual, of which a reward wants one."""
        try:
            answer = data.text(row.fields["answer"])
        except ValueError:
            return ()
        forms = ("{}", "<answer>{}</answer>", "\\boxed{{{}}}", "#### {}")
        return [form.format(answer) for form in forms] if answer else ()

    def sets(self, split: Split) -> Sequence[tuple[str, int]]:
        """A set for each data set of ``eval``."""
        if split != "eval" or not self._settings.eval:
            return ()
        evaluated = self._loaded[len(self._settings.train) :]
        names = source.set_names([loaded.source for loaded in evaluated])
        return [*zip(names, (len(loaded.examples) for loaded in evaluated), strict=True)]

    @cached_property
    def _loaded(self) -> list[Loaded]:
        settings = self._settings
        loaded = [self._load(origin) for origin in (*settings.train, *settings.eval)]
        for why in (one.sentence() for one in loaded):
            if why and settings.bad_rows == "refuse":
                raise ValueError(f"{why}: mend them, or set task.bad_rows to skip")
            if why:
                log.warning("%s: they are left out", why)
        return loaded

    def _load(self, origin: DataSource) -> Loaded:
        settings, most = self._settings, self._settings.max_prompt_tokens
        loaded = load(
            Source(**origin.model_dump()),
            prompt=settings.prompt,
            answer=settings.answer,
            rewards=self._judge.rewards,
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
        settings = self._settings
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
