"""What the tiny base model is taught: pairs of a Countdown prompt and a solution, as token ids."""

from dataclasses import dataclass

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
    """N pairs, those over the same numbers next to each other.

    prompts [N, P]: token ids. answers [N, A]: token ids, end of sequence, then padding.
    first, count [N]: the pairs ``first[i] … first[i] + count[i] - 1`` have the numbers of pair i.
    """

    prompts: Int64
    answers: Int64
    first: Int64
    count: Int64

    def batch(self, rng: np.random.Generator, size: int, *, babble: float) -> tuple[Int64, Int64]:
        """``size`` random pairs (prompts [size, P], answers [size, A]).

        babble: the share of pairs whose answer is one for the same numbers and any target.
        """
        rows = rng.integers(len(self.prompts), size=size)
        others = self.first[rows] + rng.integers(self.count[rows])
        answered = np.where(rng.random(size) < babble, others, rows)
        return self.prompts[rows], self.answers[answered]


def demonstrations(problems: list[Problem], tokenizer: PreTrainedTokenizerFast) -> Demonstrations:
    """Every solution of every problem: each tree, and so each commutative form, is one pair.

    All problems must have the same number of operands.
    """
    encoded: list[tuple[list[int], list[int]]] = []
    first, count = [], []
    by_numbers: dict[tuple[int, ...], list[int]] = {}
    for problem in sorted(problems):
        by_numbers.setdefault(problem.numbers, []).append(problem.target)
    for numbers, targets in by_numbers.items():
        start = len(encoded)
        for target in targets:
            prompt = tokenizer.encode(prompts.plain(numbers, target), add_special_tokens=False)
            for tree in solutions(numbers, target, natural=True):
                answer = tokenizer.encode(write(tree), add_special_tokens=False)
                encoded.append((prompt, [*answer, tokenizer.eos_token_id]))
        n = len(encoded) - start
        first += [start] * n
        count += [n] * n
    width = max(len(answer) for _, answer in encoded)
    padded = [answer + [tokenizer.pad_token_id] * (width - len(answer)) for _, answer in encoded]
    return Demonstrations(
        prompts=np.array([prompt for prompt, _ in encoded]),
        answers=np.array(padded),
        first=np.array(first),
        count=np.array(count),
    )
