"""Knights and Knaves as a task: which puzzles, how they are asked, how answers are judged."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.knights_knaves import prompts
from asyncds.tasks.knights_knaves.puzzles import (
    ENUMERATED_PEOPLE,
    MAX_PEOPLE,
    Puzzle,
    Statement,
    every_puzzle,
    sample_puzzles,
    solutions,
)
from asyncds.tasks.knights_knaves.verifier import score_plain, score_tagged
from asyncds.tasks.splits import Rows, hold_out, splits

SAMPLED_TRAIN = 20_000


class KnightsKnavesTask(base.Task):
    """Tell from what everyone says who always tells the truth; each puzzle has one solution.

    people: 2 to 6. n_train, n_eval, n_validation, seed: the puzzles of up to three people are
    enumerated, shuffled by ``seed``, and the first ``n_eval`` held out, then ``n_validation`` more;
    n_train is how many of the others to train on, None for all. Of more people, as many and then
    ``n_train`` others (None: 20,000) are sampled by ``seed``. The tiny base model leaves out the
    same ones for the same seed.
    chat: how chats are put into words (fields of ``base.Chat``).
    prompt_style: "plain" for the tiny base model, whose whole completion is the answer (reward 1 or
    0); "chat" asks in English and for tags (reward 0, 0.1 or 1).
    """

    name = "knights_knaves"
    equivalences = ("assignment",)
    equivalence = "assignment"

    def __init__(
        self,
        *,
        people: int = 3,
        n_train: int | None = None,
        n_eval: int = 128,
        n_validation: int = 0,
        seed: int = 0,
        prompt_style: Literal["plain", "chat"] = "plain",
        chat: Mapping[str, Any] | None = None,
    ) -> None:
        self.chat = make_chat(chat)
        if prompt_style not in ("plain", "chat"):
            raise ValueError(f"prompt_style {prompt_style!r} must be 'plain' or 'chat'")
        if not 2 <= people <= MAX_PEOPLE:
            raise ValueError(f"people must be 2 to {MAX_PEOPLE}, got {people}")
        self._people = people
        self._n_train = n_train
        self._n_eval = n_eval
        self._n_held_out = n_eval + n_validation
        self._seed = seed
        self._prompt_style = prompt_style

    def rows(self, split: Split) -> Sequence[Row]:
        """The puzzles of a split.

        The field of a row is ``statements``: [relation, first, second] of each person in turn (see
        ``puzzles.Statement``).
        """
        return Rows(self._puzzles[split], _fields)

    def prompt(self, row: Row) -> Prompt:
        puzzle = _puzzle(row)
        if self._prompt_style == "plain":
            return prompts.plain(puzzle)
        return [{"role": "user", "content": prompts.instruction(puzzle)}]

    def score(self, row: Row, completion: str) -> Score:
        judge = score_plain if self._prompt_style == "plain" else score_tagged
        return judge(completion, _puzzle(row))

    def own_answers(self, row: Row) -> Sequence[str]:
        (knights,) = solutions(_puzzle(row))
        if self._prompt_style == "plain":
            return [prompts.plain_answer(knights)]
        return [f"<answer>{prompts.answer(knights)}</answer>"]

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        """One: that is the task."""
        return {self.equivalence: 1}

    @cached_property
    def _puzzles(self) -> dict[Split, list[Puzzle]]:
        train, held_out = train_and_held_out(
            self._people, self._n_held_out, seed=self._seed, n_train=self._n_train
        )
        return splits(train, held_out, n_eval=self._n_eval)


def train_and_held_out(
    people: int, n_held_out: int, *, seed: int, n_train: int | None = None
) -> tuple[list[Puzzle], list[Puzzle]]:
    """The puzzles to train on and those held out (see ``KnightsKnavesTask``)."""
    if people <= ENUMERATED_PEOPLE:
        train, held_out = hold_out(every_puzzle(people), n_held_out, seed=seed)
        return train[:n_train], held_out
    n = n_held_out + (SAMPLED_TRAIN if n_train is None else n_train)
    sample = sample_puzzles(people, n, seed=seed)
    return sample[n_held_out:], sample[:n_held_out]


def _fields(puzzle: Puzzle) -> dict[str, Any]:
    return {"statements": [[s.relation, s.first, s.second] for s in puzzle]}


def _puzzle(row: Row) -> Puzzle:
    return tuple(Statement(*statement) for statement in row.fields["statements"])
