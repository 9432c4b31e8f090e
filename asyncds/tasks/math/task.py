"""Mathematical problems as a task: which ones, how they are asked, how answers are judged."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.math.dataset import Problem, Source, different, load_problems
from asyncds.tasks.math.verifier import score_boxed
from asyncds.tasks.source import set_names
from asyncds.tasks.splits import Rows, hold_out

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


class MathTask(base.Task):
    """Answer a problem; the answer, in a box, is right or wrong.

    train, eval: data sets (keyword arguments of ``Source``), one after the other. A problem that is
    also in one for evaluation is left out of training, and of equal ones the first is kept.
    chat: how chats are put into words (fields of ``base.Chat``).
    n_validation, seed: the others are shuffled by ``seed``, and the first ``n_validation`` are held
    out.

    All correct answers to a problem are the same answer: the task has no diversity of answers.
    """

    name = "math"
    equivalences = ("value",)
    equivalence = "value"

    def __init__(
        self,
        *,
        train: Sequence[Mapping[str, Any]] = (),
        eval: Sequence[Mapping[str, Any]],
        n_validation: int = 0,
        seed: int = 0,
        chat: Mapping[str, Any] | None = None,
    ) -> None:
        self.chat = make_chat(chat)
        self._train = [Source(**source) for source in train]
        self._eval = [Source(**source) for source in eval]
        self._n_validation = n_validation
        self._seed = seed

    def rows(self, split: Split) -> Sequence[Row]:
        """The problems of a split; the fields of a row are ``problem`` and ``answer``."""
        return Rows(self._problems[split], _fields)

    def prompt(self, row: Row) -> Prompt:
        """A problem with the instruction behind it; a data set's chat as it stands."""
        if "chat" in row.fields:
            return list(row.fields["chat"])
        return [{"role": "user", "content": f"{row.fields['problem']}\n\n{INSTRUCTION}"}]

    def score(self, row: Row, completion: str) -> Score:
        """The score of ``verifier.score_boxed``, which may raise, hang or run out of memory.

        Any text is accepted under the limits of a scorer alone.
        """
        return score_boxed(completion, row.fields["answer"])

    def own_answers(self, row: Row) -> Sequence[str]:
        answer = row.fields["answer"]
        return [answer if "\\boxed" in answer else f"\\boxed{{{answer}}}"]

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        """One, however many ways there are to write it."""
        return {self.equivalence: 1}

    def sets(self, split: Split) -> Sequence[tuple[str, int]]:
        """A set for each data set to evaluate on."""
        if split != "eval":
            return ()
        return [*zip(set_names(self._eval), map(len, self._held_out), strict=True)]

    @cached_property
    def _held_out(self) -> list[list[Problem]]:
        return [load_problems(source) for source in self._eval]

    @cached_property
    def _problems(self) -> dict[Split, list[Problem]]:
        held_out = [*chain.from_iterable(self._held_out)]
        if not self._train:
            return {"train": [], "validation": [], "eval": held_out}
        others = different(
            (problem for source in self._train for problem in load_problems(source)),
            besides=held_out,
        )
        if not others:
            raise ValueError(
                "every problem of task.train is in task.eval too: nothing is left to train on"
            )
        train, validation = hold_out(others, self._n_validation, seed=self._seed)
        return {"train": train, "validation": validation, "eval": held_out}


def _fields(problem: Problem) -> dict[str, Any]:
    fields: dict[str, Any] = {"problem": problem.problem, "answer": problem.answer}
    return fields | {"chat": list(problem.chat)} if problem.chat else fields
