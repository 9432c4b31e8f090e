"""Demonstrations for a tiny base model: pairs of a prompt and an answer, as token ids."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """P problems and S answers, those of a problem next to each other.

    prompts [P, prompt tokens]: token ids. answers [S, answer tokens]: token ids, the end of
    sequence, then padding. solutions [P, 2]: first and last + 1 row of the problem's answers.
    babble [P, 2]: the same for answers of the right form that ignore what is asked.
    """

    prompts: Int64
    answers: Int64
    solutions: Int64
    babble: Int64

    def batch(self, rng: np.random.Generator, size: int, *, babble: float) -> tuple[Int64, Int64]:
        """Prompts [size, prompt tokens] and answers [size, answer tokens].

        A problem is drawn first, then one of its solutions, both uniformly.
        babble: the share of prompts that get one of the problem's babbled answers.
        """
        problems = rng.integers(len(self.prompts), size=size)
        babbles = rng.random(size) < babble
        rows = np.where(babbles[:, None], self.babble[problems], self.solutions[problems])
        return self.prompts[problems], self.answers[rng.integers(rows[:, 0], rows[:, 1])]


Group = list[tuple[str, list[str]]]
"""Problems that babble each other's answers: (prompt, solutions) of each."""


def demonstrations(groups: Iterable[Group], tokenizer: PreTrainedTokenizerFast) -> Demonstrations:
    """Encode groups of problems. A problem's babble is any answer to any problem of its group.

    All prompts must have the same number of tokens.
    """
    asked: list[list[int]] = []
    answers: list[list[int]] = []
    of_problem: list[tuple[int, int]] = []
    of_group: list[tuple[int, int]] = []
    for group in groups:
        first = len(answers)
        for prompt, found in group:
            asked.append(tokenizer.encode(prompt, add_special_tokens=False))
            of_problem.append((len(answers), len(answers) + len(found)))
            encoded = (tokenizer.encode(text, add_special_tokens=False) for text in found)
            answers += [[*ids, tokenizer.eos_token_id] for ids in encoded]
        of_group += [(first, len(answers))] * len(group)
    width = max(map(len, answers))
    return Demonstrations(
        prompts=np.array(asked),
        answers=np.array([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in answers]),
        solutions=np.array(of_problem),
        babble=np.array(of_group),
    )
