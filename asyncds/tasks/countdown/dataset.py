"""Countdown problems from a Hugging Face data set with the columns ``nums`` and ``target``."""

from asyncds.tasks.countdown.problems import Problem


def load_problems(
    source: str, *, n_train: int | None, n_eval: int
) -> tuple[list[Problem], list[Problem]]:
    """(train, eval): the first ``n_train`` rows of the split "train", the next ``n_eval``.

    source: hub id or local directory. n_train: None for all but the last ``n_eval`` rows. Numbers
    keep the order of the data set. Raises ValueError where the data set has other columns or too
    few rows.
    """
    # Costs seconds, and only some runs need it.
    from datasets import load_dataset

    data = load_dataset(source, split="train")
    missing = {"nums", "target"} - set(data.column_names)
    if missing:
        raise ValueError(f"data set {source!r} has no column {' or '.join(sorted(missing))}")
    n_train = len(data) - n_eval if n_train is None else n_train
    if n_train < 1 or n_train + n_eval > len(data):
        raise ValueError(
            f"data set {source!r} has {len(data)} rows, not enough for training on {n_train} and "
            f"evaluating on {n_eval}"
        )
    chosen = data.select(range(n_train + n_eval))
    problems = [
        Problem(tuple(nums), target)
        for nums, target in zip(chosen["nums"], chosen["target"], strict=True)
    ]
    return problems[:n_train], problems[n_train:]
