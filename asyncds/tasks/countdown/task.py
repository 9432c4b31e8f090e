"""Countdown as a task: which problems, how they are asked, how answers are judged."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from asyncds.tasks import base
from asyncds.tasks.base import Prompt, Row, Score, Split, make_chat
from asyncds.tasks.countdown import prompts
from asyncds.tasks.countdown.dataset import load_problems
from asyncds.tasks.countdown.enumeration import multiplicity, solutions
from asyncds.tasks.countdown.expression import EQUIVALENCES, Equivalence, write
from asyncds.tasks.countdown.problems import (
    Problem,
    Space,
    every_problem,
    sample_problems,
)
from asyncds.tasks.countdown.verifier import score_plain, score_tagged
from asyncds.tasks.splits import Rows, hold_out, splits

SAMPLED_TRAIN = 20_000
COUNTED_OPERANDS = 5


class CountdownTask(base.Task):
    """Reach a target from given numbers, each used exactly once.

    operands, max_number, max_target, natural: the family of problems (see ``Space``). A small one
    is enumerated, shuffled by ``seed``, and its first ``n_eval`` problems are held out, then
    ``n_validation`` more; the tiny base model leaves out the same ones for the same seed. From a
    large one, as many and then ``n_train`` others are sampled by ``seed``.
    n_train: how many problems to train on; None for all of a small family or of a data set, 20,000
    of a large family.
    dataset: instead of a family, a data set of the format ``Jiayi-Pan/Countdown-Tasks-3to4`` (see
    ``data.read_rows``); of its rows only those with ``dataset_operands`` numbers, if given. The
    first ``n_train`` rows are for training, the next ``n_eval`` for
    evaluation and the next ``n_validation`` for validation, as they stand; the published split is
    n_train=327,680, n_eval=1,024.
    chat: how chats are put into words (fields of ``base.Chat``).
    prompt_style: "plain" for the tiny base model, whose whole completion is the answer (reward 1 or
    0); "chat" asks for tags (reward 0, 0.1 or 1).
    equivalence: which of ``equivalences`` counts where one number must do. The default is the
    strictest, the one behind the published multiplicity of 6.5 for three numbers: expressions are
    the same if they are written the same but for spaces and redundant parentheses.
    """

    name = "countdown"
    equivalences = EQUIVALENCES
    equivalence: Equivalence = "written"

    def __init__(
        self,
        *,
        operands: int = 3,
        max_number: int = 10,
        max_target: int = 99,
        natural: bool = True,
        n_train: int | None = None,
        n_eval: int = 128,
        n_validation: int = 0,
        seed: int = 0,
        prompt_style: Literal["plain", "chat"] = "plain",
        equivalence: Equivalence = "written",
        dataset: str | None = None,
        dataset_operands: int | None = None,
        chat: Mapping[str, Any] | None = None,
    ) -> None:
        self.chat = make_chat(chat)
        if prompt_style not in ("plain", "chat"):
            raise ValueError(f"prompt_style {prompt_style!r} must be 'plain' or 'chat'")
        self._space = Space(
            operands=operands, max_number=max_number, max_target=max_target, natural=natural
        )
        self._n_train = n_train
        self._n_eval = n_eval
        self._n_held_out = n_eval + n_validation
        self._seed = seed
        self._prompt_style = prompt_style
        self.equivalence = equivalence
        self._dataset = dataset
        self._dataset_operands = dataset_operands

    def rows(self, split: Split) -> Sequence[Row]:
        """The problems of a split; the fields of a row are ``numbers`` and ``target``."""
        return Rows(self._problems[split], _fields)

    def prompt(self, row: Row) -> Prompt:
        if self._prompt_style == "plain":
            return prompts.plain(**row.fields)
        return [{"role": "user", "content": prompts.instruction(**row.fields)}]

    def score(self, row: Row, completion: str) -> Score:
        judge = score_plain if self._prompt_style == "plain" else score_tagged
        return judge(completion, **row.fields)

    def own_answers(self, row: Row) -> Sequence[str]:
        numbers = tuple(sorted(row.fields["numbers"]))
        solution = next(solutions(numbers, row.fields["target"]), None)
        if solution is None:
            return ()
        answer = write(solution)
        return [answer if self._prompt_style == "plain" else f"<answer>{answer}</answer>"]

    def multiplicity(self, row: Row) -> dict[str, int] | None:
        """The exact number, by enumeration of every answer that ``score`` calls correct.

        None beyond five numbers, where that takes too long.
        """
        if len(row.fields["numbers"]) > COUNTED_OPERANDS:
            return None
        return {str(kind): n for kind, n in multiplicity(**row.fields).items()}

    @cached_property
    def _problems(self) -> dict[Split, list[Problem]]:
        if self._dataset is not None:
            train, held_out = load_problems(
                self._dataset,
                operands=self._dataset_operands,
                n_train=self._n_train,
                n_held_out=self._n_held_out,
            )
        elif self._space.is_small:
            train, held_out = hold_out(
                every_problem(self._space), self._n_held_out, seed=self._seed
            )
            train = train[: self._n_train]
        else:
            n_train = SAMPLED_TRAIN if self._n_train is None else self._n_train
            sample = sample_problems(self._space, self._n_held_out + n_train, seed=self._seed)
            held_out, train = sample[: self._n_held_out], sample[self._n_held_out :]
        return splits(train, held_out, n_eval=self._n_eval)


def _fields(problem: Problem) -> dict[str, Any]:
    return {"numbers": list(problem.numbers), "target": problem.target}
