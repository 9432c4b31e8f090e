"""Countdown problems from a data set with the columns ``nums`` and ``target``."""

from asyncds.tasks import data
from asyncds.tasks.countdown.problems import Problem


def load_problems(
    source: str, *, operands: int | None, n_train: int | None, n_held_out: int
) -> tuple[list[Problem], list[Problem]]:
    """(train, held out): the first ``n_train`` rows of the split "train", the next ``n_held_out``.

    source: see ``data.read_rows``. operands: only the rows with so many numbers; None for all.
    n_train: None for all but the last ``n_held_out``. Numbers keep the order of the data set.
    Raises ValueError where the data set has other columns, other values or too few rows.
    """
    rows = data.read_rows(source)
    missing = {"nums", "target"} - set(data.columns(rows))
    if missing:
        raise ValueError(f"data set {source!r} has no column {' or '.join(sorted(missing))}")
    wanted = None if n_train is None else n_train + n_held_out
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        if len(problems) == wanted:
            break
        problem = _problem(row, f"row {index} of data set {source!r}")
        if operands in (None, len(problem.numbers)):
            problems.append(problem)
    n_train = len(problems) - n_held_out if n_train is None else n_train
    if n_train < 1 or n_train + n_held_out > len(problems):
        which = "" if operands is None else f" of {operands} numbers"
        raise ValueError(
            f"data set {source!r} has {len(problems)} rows{which}, not enough for training on "
            f"{max(n_train, 1)} and holding out {n_held_out}"
        )
    return problems[:n_train], problems[n_train:]


def _problem(row: data.Row, where: str) -> Problem:
    numbers, target = row["nums"], row["target"]
    if not isinstance(numbers, list) or not all(type(n) is int for n in (*numbers, target)):
        raise ValueError(f"{where} must have whole numbers in nums and target")
    return Problem(tuple(numbers), target)
