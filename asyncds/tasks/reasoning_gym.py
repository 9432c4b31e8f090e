"""Problems and verifiers of the package reasoning-gym (arXiv 2505.24760) as a task."""

import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from asyncds.tasks import base, tagged
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.splits import Rows

log = logging.getLogger(__name__)

INSTRUCTION = (
    "Think step by step inside <think> </think>, then give just the answer inside "
    "<answer> </answer>."
)
TRIED = 20
"""Problems that are generated for each that is wanted, before there are too few different ones."""
UNHASHED = ("isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder")
"""Data sets of the package whose problems follow the order of sets, which is another in every
process, unless its hashes have a seed."""
_OWN = ("example_answer", "example_correct_answer", "possible_answer")
"""Where the package has a right answer beside ``answer``."""


class ReasoningGymTask(base.Task):
    """Problems that reasoning-gym generates, judged by its own verifier.

    dataset: its name there, such as "knights_knaves". options: of its generator; of ``composite``
    its ``datasets``: a name, weight and config of each. n_eval,
    n_validation, n_train: the first problems are held out for evaluation, the next for validation,
    the next are for training; of equal questions the first is kept. seed: of the generator.
    chat: how chats are put into words (fields of ``base.Chat``).

    Reward 0 without an answer between tags, 0.1 for one that is not correct, 1 for a correct one;
    correct is what the verifier gives a score of 1. The canonical form of an answer is its words.
    """

    equivalences = ("written",)
    equivalence = "written"

    def __init__(
        self,
        *,
        dataset: str,
        options: Mapping[str, Any] | None = None,
        n_train: int = 2_000,
        n_eval: int = 128,
        n_validation: int = 0,
        seed: int = 0,
        chat: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = f"reasoning_gym_{dataset}"
        self.chat = make_chat(chat)
        self._sizes: dict[Split, int] = {
            "eval": n_eval,
            "validation": n_validation,
            "train": n_train,
        }
        self._generator = _generator(
            dataset, seed, dict(options or {}), wanted=sum(self._sizes.values())
        )

    @property
    def name(self) -> str:
        return self._name

    def rows(self, split: Split) -> Sequence[Row]:
        """The fields of a row are ``question``, and ``index``, its place in the generator."""
        return Rows(self._splits[split], dict)

    def prompt(self, row: Row) -> Prompt:
        return [{"role": "user", "content": f"{row.fields['question']}\n\n{INSTRUCTION}"}]

    def own_answers(self, row: Row) -> Sequence[str]:
        """The package's, of which some data sets have none."""
        entry = self._entry(row.fields["index"])
        known = (entry["answer"], *(entry.get("metadata", {}).get(name) for name in _OWN))
        answer = next((one for one in known if one is not None), None)
        if answer is None:
            return []
        return [f"<answer>{json.dumps(answer) if isinstance(answer, dict) else answer}</answer>"]

    def score(self, row: Row, completion: str) -> Score:
        entry = self._entry(row.fields["index"])

        def judge(text: str) -> tuple[bool, tuple[str, ...]]:
            answer = text.strip()
            # Some verifiers draw at random: their verdict must not depend on what came before.
            random.seed(0)
            try:
                correct = self._generator.score_answer(answer, entry) >= 1
            except Exception as error:  # a verifier that can't read an answer may raise anything
                log.info("%s: its verifier raised %r, so the answer is wrong", self.name, error)
                correct = False
            return bool(correct), (" ".join(answer.split()),)

        return tagged.score_tagged(completion, judge)

    def _entry(self, index: int) -> dict[str, Any]:
        # Some generators draw from the global source as well.
        random.seed(index)
        entry: dict[str, Any] = self._generator[index]
        return entry

    @cached_property
    def _splits(self) -> dict[Split, list[dict[str, Any]]]:
        wanted = sum(self._sizes.values())
        found: dict[str, int] = {}
        for index in range(self._generator.size):
            if len(found) == wanted:
                break
            found.setdefault(self._entry(index)["question"], index)
        if len(found) < wanted:
            raise ValueError(f"{self.name} has only {len(found)} different problems, not {wanted}")
        problems = [{"question": question, "index": i} for question, i in found.items()]
        splits: dict[Split, list[dict[str, Any]]] = {}
        for split, n in self._sizes.items():
            splits[split], problems = problems[:n], problems[n:]
        return splits


def _generator(dataset: str, seed: int, options: dict[str, Any], *, wanted: int) -> Any:
    # Costs seconds, and brings many packages.
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError(
            "the task reasoning_gym needs the package reasoning-gym: install `asyncds[reasoning]` "
            f"({error})"
        ) from error
    if dataset == "composite":
        options["datasets"] = [_part(part) for part in options.get("datasets", ())]
    names = {dataset, *(part.name for part in options.get("datasets", ()))}
    unhashed = sorted(names & {*UNHASHED})
    if unhashed and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise ValueError(
            f"reasoning-gym makes other problems of {', '.join(unhashed)} in every process: set "
            "the environment variable PYTHONHASHSEED to 0 for all of them"
        )
    why: Exception | None = None
    for tried in (TRIED, 2):  # some refuse to make many, and some make them all at once
        try:
            return reasoning_gym.create_dataset(dataset, seed=seed, size=tried * wanted, **options)
        except (ValueError, TypeError, AssertionError) as error:
            why = error
    raise ValueError(f"reasoning-gym has no such data set {dataset!r}: {why}") from None


def _part(part: Mapping[str, Any]) -> Any:
    from reasoning_gym.composite import DatasetSpec

    try:
        return DatasetSpec(**{"weight": 1.0, "config": {}} | dict(part))
    except TypeError as error:
        raise ValueError(f"options.datasets has name, weight and config of each: {error}") from None
