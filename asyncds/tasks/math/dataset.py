"""Mathematical problems from data sets, whatever their columns are called."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from asyncds.tasks import data, source
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
        """A problem's text but for spaces, which makes two problems the same one."""
        return " ".join(self.problem.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(source.Source):
    """A data set of problems.

    problem_field, answer_field: columns, "outer.inner" for a field of a structured one.
    """

    problem_field: str = "problem"
    answer_field: str = "answer"


def load_problems(origin: Source) -> list[Problem]:
    """The problems of a data set, as its rows stand.

    Raises ValueError where a column is missing, a row has no problem or no answer, or there are too
    few rows. Answers that no answer could match are counted in a warning.
    """
    rows = data.whole(origin.read())
    wanted = (origin.problem_field, origin.answer_field)
    source.check_columns(data.columns(rows), wanted, origin, "set problem_field and answer_field")
    problems = [_problem(row, origin, i) for i, row in enumerate(islice(rows, origin.n))]
    if warning := hopeless(origin, problems):
        log.warning("%s", warning)
    return problems


def hopeless(origin: Source, problems: list[Problem]) -> str:
    """A sentence about the answers that nothing in a box could match; "" where there are none."""
    found = [i for i, problem in enumerate(problems) if is_hopeless(problem.answer)]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(problems)} answers of data set {origin.dataset!r} are such that no "
        f"boxed answer could match them, first row {found[0]}: "
        f"{problems[found[0]].answer[:60]!r}; give final answers only in {origin.answer_field}"
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


def _problem(row: data.Row, origin: Source, index: int) -> Problem:
    where = origin.at(index)
    chat = source.chat(data.field(row, origin.problem_field), where)
    problem = chat[-1]["content"].strip() if chat else source.cell(row, origin.problem_field, where)
    answer = final_answer(source.cell(row, origin.answer_field, where))
    for name, text in ((origin.problem_field, problem), (origin.answer_field, answer)):
        if not text:
            raise ValueError(f"{where} has no text in {name}")
    return Problem("\n\n".join(turn["content"] for turn in chat) if chat else problem, answer, chat)
