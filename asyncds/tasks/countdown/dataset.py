"""Countdown problems from a Hugging Face data set with the columns ``nums`` and ``target``."""

from asyncds.tasks.countdown.problems import Problem


def load_problems(
    source: str, *, n_train: int | None, n_held_out: int
) -> tuple[list[Problem], list[Problem]]:
    """(train, held out): the first ``n_train`` rows of the split "train", the next ``n_held_out``.

    source: hub id or local directory. n_train: None for all but the last ``n_held_out``. Numbers
    keep the order of the data set. Raises ValueError where the data set has other columns or too
    few rows.
    """
    # Costs seconds, and only some runs need it.
    from datasets import load_dataset

    data = load_dataset(source, split="train")
    missing = {"nums", "target"} - set(data.column_names)
    if missing:
        raise ValueError(f"data set {source!r} has no column {' or '.join(sorted(missing))}")
    n_train = len(data) - n_held_out if n_train is None else n_train
    if n_train < 1 or n_train + n_held_out > len(data):
        raise ValueError(
            f"data set {source!r} has {len(data)} rows, not enough for training on {n_train} and "
            f"holding out {n_held_out}"
        )
    chosen = data.select(range(n_train + n_held_out))
    problems = [
        Problem(tuple(nums), target)
        for nums, target in zip(chosen["nums"], chosen["target"], strict=True)
    ]
    return problems[:n_train], problems[n_train:]
