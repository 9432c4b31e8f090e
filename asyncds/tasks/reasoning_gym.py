"""Problems and verifiers of the package reasoning-gym (arXiv 2505.24760) as a task."""

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from asyncds.tasks import base, tagged
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.splits import Rows

INSTRUCTION = (
    "Think step by step inside <think> </think>, then give just the answer inside "
    "<answer> </answer>."
)
_DRAWN = 1 << 31


class ReasoningGymTask(base.Task):
    """Problems that reasoning-gym generates, judged by its own verifier.

    dataset: its name there, such as "knights_knaves". options: of its generator. n_eval,
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
        self._generator = _generator(dataset, seed, dict(options or {}))

    @property
    def name(self) -> str:
        return self._name

    def rows(self, split: Split) -> Sequence[Row]:
        """The fields of a row are ``question``, and ``index``, its place in the generator."""
        return Rows(self._splits[split], dict)

    def prompt(self, row: Row) -> Prompt:
        return [{"role": "user", "content": f"{row.fields['question']}\n\n{INSTRUCTION}"}]

    def own_answers(self, row: Row) -> Sequence[str]:
        return [f"<answer>{self._entry(row.fields['index'])['answer']}</answer>"]

    def score(self, row: Row, completion: str) -> Score:
        entry = self._entry(row.fields["index"])

        def judge(text: str) -> tuple[bool, tuple[str, ...]]:
            answer = text.strip()
            # Some verifiers draw at random: their verdict must not depend on what came before.
            random.seed(0)
            return self._generator.score_answer(answer, entry) >= 1, (" ".join(answer.split()),)

        return tagged.score_tagged(completion, judge)

    def _entry(self, index: int) -> dict[str, Any]:
        entry: dict[str, Any] = self._generator[index]
        return entry

    @cached_property
    def _splits(self) -> dict[Split, list[dict[str, Any]]]:
        wanted = sum(self._sizes.values())
        found: dict[str, int] = {}
        for index in range(20 * wanted):
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


def _generator(dataset: str, seed: int, options: dict[str, Any]) -> Any:
    # Costs seconds, and brings many packages.
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError(
            "the task reasoning_gym needs the package reasoning-gym: install `asyncds[reasoning]` "
            f"({error})"
        ) from error
    try:
        return reasoning_gym.create_dataset(dataset, seed=seed, size=_DRAWN, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"reasoning-gym has no such data set {dataset!r}: {error}") from None
