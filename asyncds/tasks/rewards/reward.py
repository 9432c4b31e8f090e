"""One reward of a task: a function that is given what it asks for, and what it may return."""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncds.choices.open_function import OpenFunction
from asyncds.choices.open_kind import KindError
from asyncds.tasks.base import InvalidScoreError, Message, Score

BUILT_IN = {
    "exact": "asyncds.tasks.rewards.exact:exact",
    "math": "asyncds.tasks.rewards.boxed:boxed",
    "regex": "asyncds.tasks.rewards.regex:regex",
}
GIVEN = ("completion", "answer", "prompt", "row")
"""What every function may ask for, beside the columns."""
OTHER_NAMES = {"solution_str": "completion", "ground_truth": "answer"}
"""What functions written for verl call them."""
IN_LISTS = ("completions", "prompts")
"""A function that asks for these is one of TRL's: it is given lists of one element."""

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of a reward.

    correct: None where it gave a number only. answer: equal for answers that count as the same;
    None where it didn't say.
    """

    value: float
    correct: bool | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The subject of a reward's judgement: a row, and a completion of its prompt."""

    completion: str
    prompt: str | list[Message]
    answer: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)


class Reward:
    """A function with its options, its weight in the sum, and its name in the metrics.

    fn: a name in BUILT_IN, or ``package.module:function``. Raises KindError with a sentence.
    """

    def __init__(
        self,
        *,
        fn: str,
        weight: float = 1.0,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.fn = fn
        self.weight = weight
        self.name = name if name is not None else fn.rpartition(":")[2]
        if not _NAME.fullmatch(self.name):
            raise KindError(f"the name {self.name!r} of reward {fn}: letters, digits, _, . and -")
        self._function = OpenFunction(_path(fn), options or {}, name=f"reward {fn}")
        self._in_lists = bool(self._function.asks_for & {"completions"})
        if not self._in_lists and not self._function.wants(("completion", "solution_str")):
            raise KindError(f"reward {fn} never asks for the completion: give it that parameter")

    def columns(self, names: Collection[str], *, has_answer: bool) -> set[str]:
        """The columns of a data set that the function is given.

        Raises KindError where it needs what isn't there.
        """
        function = self._function
        for name in function.needs:
            if name in names or name in IN_LISTS or name in OTHER_NAMES or name in GIVEN:
                continue
            raise KindError(
                f"reward {self.fn} asks for {name}, which is neither a column "
                f"({', '.join(names)}) nor one of {', '.join(GIVEN)}: rename it, give it a "
                "default, or set it in the reward's options"
            )
        if not has_answer and {"answer", "ground_truth"} & {*function.needs} - {*names}:
            raise KindError(f"reward {self.fn} asks for the answer: set task.answer to its column")
        return {*names} if "row" in function.asks_for else function.wants(names)

    def __call__(self, asked: Asked) -> Verdict:
        """The function's judgement. Raises what the function raises, and InvalidScoreError."""
        if self._in_lists:
            returned = self._function(_in_lists(asked))
            if not isinstance(returned, Sequence) or len(returned) != 1:
                raise InvalidScoreError(
                    f"reward {self.name} returned {returned!r:.80} for one completion, and not a "
                    "list with one reward"
                )
            return _verdict(returned[0], self.name)
        given = {
            "completion": asked.completion,
            "answer": asked.answer,
            "prompt": asked.prompt,
            "row": dict(asked.columns),
        }
        also = {other: given[name] for other, name in OTHER_NAMES.items()}
        wanted = self._function
        known = wanted.asks_for if wanted.takes_all else GIVEN + tuple(OTHER_NAMES)
        named = {n: v for n, v in (also | given).items() if n in known}
        return _verdict(wanted({**asked.columns, **named}), self.name)


def _in_lists(asked: Asked) -> dict[str, Any]:
    is_chat = not isinstance(asked.prompt, str)
    completion: Any = asked.completion
    if is_chat:
        completion = [{"role": "assistant", "content": completion}]
    columns = {name: [value] for name, value in asked.columns.items()}
    given = {"prompts": [asked.prompt], "completions": [completion]}
    if asked.answer is not None:
        columns.setdefault("answer", [asked.answer])
    return columns | given


def _verdict(returned: Any, name: str) -> Verdict:
    if isinstance(returned, Score):
        returned = {
            "reward": returned.reward,
            "correct": returned.correct,
            **({"answer": returned.answers[0]} if returned.answers else {}),
        }
    if not isinstance(returned, Mapping):
        value = _number(returned, name)
        return Verdict(value=value, correct=returned if isinstance(returned, bool) else None)
    value = returned.get("reward", returned.get("score"))
    correct = returned.get("correct", returned.get("acc"))
    answer = returned.get("answer")
    return Verdict(
        value=_number(value, name),
        correct=None if correct is None else bool(_number(correct, name)),
        answer=None if answer is None else str(answer),
    )


def _number(value: Any, name: str) -> float:
    # Numbers of NumPy and torch too, without importing them.
    if not isinstance(value, int | float) and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        raise InvalidScoreError(
            f"reward {name} returned {value!r:.80}, which is neither a number nor a dict with "
            "reward"
        )
    if not math.isfinite(value):
        raise InvalidScoreError(f"reward {name} returned {value}")
    return float(value)


def _path(fn: str) -> str:
    if ":" in fn or fn in BUILT_IN:
        return BUILT_IN.get(fn, fn)
    near = difflib.get_close_matches(fn, BUILT_IN, n=1)
    hint = f"did you mean {near[0]}" if near else f"choose {', '.join(BUILT_IN)}"
    raise KindError(f"unknown reward {fn}: {hint}, or package.module:function for your own")
