"""What the tiny base model is taught: pairs of a Countdown prompt and a solution, as token ids."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from asyncds.tasks.countdown import prompts
from asyncds.tasks.countdown.enumeration import solutions
from asyncds.tasks.countdown.expression import write
from asyncds.tasks.countdown.problems import Problem

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """P problems, ascending, and all their S solutions, those of a problem next to each other.

    prompts [P, prompt tokens]: token ids. answers [S, answer tokens]: token ids, the end of
    sequence, then padding. solutions [P, 2]: first and last + 1 row of the problem's answers.
    babble [P, 2]: the same for the answers of all problems with its numbers.
    """

    prompts: Int64
    answers: Int64
    solutions: Int64
    babble: Int64

    def batch(self, rng: np.random.Generator, size: int, *, babble: float) -> tuple[Int64, Int64]:
        """Prompts [size, prompt tokens] and answers [size, answer tokens].

        A problem is drawn first, then one of its solutions, both uniformly.
        babble: the share of prompts that get an answer to any problem with the same numbers.
        """
        problems = rng.integers(len(self.prompts), size=size)
        babbles = rng.random(size) < babble
        rows = np.where(babbles[:, None], self.babble[problems], self.solutions[problems])
        return self.prompts[problems], self.answers[rng.integers(rows[:, 0], rows[:, 1])]


def demonstrations(problems: list[Problem], tokenizer: PreTrainedTokenizerFast) -> Demonstrations:
    """Every solution of every problem: each tree, and so each commutative form, is an answer.

    All problems must have the same number of operands.
    """
    asked: list[list[int]] = []
    answers: list[list[int]] = []
    of_problem: list[tuple[int, int]] = []
    of_numbers: list[tuple[int, int]] = []
    for numbers, same_numbers in groupby(sorted(problems), key=lambda problem: problem.numbers):
        first, n_problems = len(answers), len(asked)
        for problem in same_numbers:
            text = prompts.plain(numbers, problem.target)
            asked.append(tokenizer.encode(text, add_special_tokens=False))
            trees = solutions(numbers, problem.target, natural=True)
            found = [tokenizer.encode(write(tree), add_special_tokens=False) for tree in trees]
            of_problem.append((len(answers), len(answers) + len(found)))
            answers += [[*ids, tokenizer.eos_token_id] for ids in found]
        of_numbers += [(first, len(answers))] * (len(asked) - n_problems)
    width = max(map(len, answers))
    return Demonstrations(
        prompts=np.array(asked),
        answers=np.array([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in answers]),
        solutions=np.array(of_problem),
        babble=np.array(of_numbers),
    )
