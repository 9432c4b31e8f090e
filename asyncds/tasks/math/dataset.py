"""Mathematical problems from Hugging Face data sets, whatever their columns are called."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, and its answer in LaTeX or plain text."""

    problem: str
    answer: str

    @property
    def words(self) -> str:
        """What makes two problems the same one: the text, but for spaces."""
        return " ".join(self.problem.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set, or a part of one.

    dataset: hub id, local directory, or a .jsonl, .json or .parquet file. subset: the data set's
    configuration. split: the name that the data set gives it; a file is all one split, "train".
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

    An answer that is a list counts as its elements with commas between them. Raises ValueError
    where a column is missing, a row has no problem or no answer, or there are too few rows.
    """
    # Costs seconds, and a process that only scores does without.
    from datasets import load_dataset

    path = Path(source.dataset)
    if path.is_file() and path.suffix in FORMATS:
        data = load_dataset(FORMATS[path.suffix], data_files=str(path), split=source.split)
    else:
        data = load_dataset(source.dataset, source.subset, split=source.split)
    fields = (source.problem_field, source.answer_field)
    missing = {field.split(".")[0] for field in fields} - set(data.column_names)
    if missing:
        raise ValueError(
            f"data set {source.dataset!r} has no column {' or '.join(sorted(missing))}, but "
            f"{', '.join(data.column_names)}: set problem_field and answer_field"
        )
    if source.n is not None and source.n > len(data):
        raise ValueError(f"data set {source.dataset!r} has {len(data)} rows, not {source.n}")
    chosen = data if source.n is None else data.select(range(source.n))
    return [_problem(row, source, i) for i, row in enumerate(chosen)]


def different(problems: Iterable[Problem], *, besides: Iterable[Problem] = ()) -> list[Problem]:
    """The first of each set of problems with equal words, without those in ``besides``."""
    left_out = {problem.words for problem in besides}
    found: dict[str, Problem] = {}
    for problem in problems:
        if problem.words not in left_out:
            found.setdefault(problem.words, problem)
    return list(found.values())


def _problem(row: dict[str, Any], source: Source, index: int) -> Problem:
    problem, answer = _text(row, source.problem_field), _text(row, source.answer_field)
    for field, text in ((source.problem_field, problem), (source.answer_field, answer)):
        if not text:
            raise ValueError(f"row {index} of data set {source.dataset!r} has no text in {field}")
    return Problem(problem, answer)


def _text(row: dict[str, Any], field: str) -> str:
    value: Any = row
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, list):
        return ", ".join(str(element) for element in value)
    return "" if value is None else str(value).strip()
