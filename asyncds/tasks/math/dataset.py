"""Mathematical problems from data sets, whatever their columns are called."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from asyncds.tasks import data
from asyncds.tasks.base import Message

log = logging.getLogger(__name__)

_LONGEST_ANSWER = 1_000
_MOST_WORDS = 12
_FINAL = re.compile(
    r"(?:^|[.\n!])[^.\n]{0,60}\b(?:final )?answer(?: is|:) *(?P<answer>[^\n]+?)\.?\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, and its answer in LaTeX or plain text.

    chat: the turns that put it, for a data set that has chats; the problem is their text.
    """

    problem: str
    answer: str
    chat: tuple[Message, ...] = field(default=(), compare=False)

    @property
    def words(self) -> str:
        """What makes two problems the same one: the text, but for spaces."""
        return " ".join(self.problem.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set, or a part of one (see ``data.read_rows``).

    problem_field, answer_field: columns, "outer.inner" for a field of a structured one. n: only the
    first ``n`` rows.
    """

    dataset: str
    subset: str | None = None
    split: str = "train"
    problem_field: str = "problem"
    answer_field: str = "answer"
    n: int | None = None


def load_problems(source: Source) -> list[Problem]:
    """The problems of a data set, as its rows stand.

    Raises ValueError where a column is missing, a row has no problem or no answer, or there are too
    few rows. Answers that no answer could match are counted in a warning.
    """
    rows = data.read_rows(source.dataset, subset=source.subset, split=source.split)
    _check_columns(rows, source)
    if source.n is not None and source.n > len(rows):
        raise ValueError(f"data set {source.dataset!r} has {len(rows)} rows, not {source.n}")
    problems = [_problem(row, source, i) for i, row in enumerate(islice(rows, source.n))]
    if warning := hopeless(source, problems):
        log.warning("%s", warning)
    return problems


def hopeless(source: Source, problems: list[Problem]) -> str:
    """A sentence about the answers that nothing in a box could match; "" where there are none."""
    found = [i for i, problem in enumerate(problems) if is_hopeless(problem.answer)]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(problems)} answers of data set {source.dataset!r} are such that no "
        f"boxed answer could match them, first row {found[0]}: "
        f"{problems[found[0]].answer[:60]!r}; give final answers only in {source.answer_field}"
    )


def is_hopeless(answer: str) -> bool:
    """Whether an answer is a text rather than a final answer: too long, or sentences."""
    if r"\boxed" in answer:
        return False
    return len(answer) > _LONGEST_ANSWER or len(re.findall(r"(?<!\\)\b[a-zA-Z]{2,}", answer)) > (
        _MOST_WORDS
    )


def final_answer(answer: str) -> str:
    """The final answer of a solution: what stands behind ``####`` or "The answer is".

    An answer that is no solution stays as it is; one in a box is found by the grader.
    """
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip()
    match = None if r"\boxed" in answer else _FINAL.search(answer)
    return match["answer"].strip() if match else answer


def different(problems: Iterable[Problem], *, besides: Iterable[Problem] = ()) -> list[Problem]:
    """The first of each set of problems with equal words, without those in ``besides``."""
    left_out = {problem.words for problem in besides}
    found: dict[str, Problem] = {}
    for problem in problems:
        if problem.words not in left_out:
            found.setdefault(problem.words, problem)
    return list(found.values())


def _check_columns(rows: Sequence[data.Row], source: Source) -> None:
    names = data.columns(rows)
    wanted = (source.problem_field, source.answer_field)
    missing = {name.split(".")[0] for name in wanted if name not in names} - set(names)
    if missing:
        raise ValueError(
            f"data set {source.dataset!r} has no column {' or '.join(sorted(missing))}, but "
            f"{', '.join(names)}: set problem_field and answer_field"
        )


def _problem(row: data.Row, source: Source, index: int) -> Problem:
    where = f"row {index} of data set {source.dataset!r}"
    chat = _chat(data.field(row, source.problem_field), where)
    problem = chat[-1]["content"].strip() if chat else _text(row, source.problem_field, where)
    answer = final_answer(_text(row, source.answer_field, where))
    for name, text in ((source.problem_field, problem), (source.answer_field, answer)):
        if not text:
            raise ValueError(f"{where} has no text in {name}")
    return Problem("\n\n".join(turn["content"] for turn in chat) if chat else problem, answer, chat)


def _chat(value: Any, where: str) -> tuple[Message, ...]:
    """The turns of a chat; () for a problem that is none."""
    if not isinstance(value, list) or not value or not all(isinstance(t, dict) for t in value):
        return ()
    turns: list[Message] = []
    for turn in value:
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"{where} has a turn without the texts role and content")
        turns.append({"role": role, "content": content})
    if turns[-1]["role"] == "assistant":
        raise ValueError(f"{where} has a chat that ends with an answer: end it with the question")
    return tuple(turns)


def _text(row: data.Row, name: str, where: str) -> str:
    try:
        return data.text(data.field(row, name))
    except ValueError as error:
        raise ValueError(f"{where} can't be used: in {name}, {error}") from None
