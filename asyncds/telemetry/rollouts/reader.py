"""The reader: a page with completions turn by turn, which filters choose among."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from asyncds.telemetry.one_file import OneFile, one_file
from asyncds.telemetry.rollouts.rows import Row
from asyncds.telemetry.rollouts.texts import cut


def reader_page(rows: Iterable[Row], *, run: str, note: str) -> OneFile:
    """The page of some completions. note: which they are."""
    data = {"run": run, "note": note, "rows": list(rows)}
    return one_file(Path(__file__).parent, "reader", data=data)


def spread(leases: Sequence[int], *, newest: int, others: int) -> list[int]:
    """The newest of some leases, and others at equal distances from the first on, in order."""
    older, last = leases[:-newest], leases[-newest:]
    places = np.linspace(0, len(older) - 1, min(others, len(older))).round().astype(int)
    return [older[place] for place in places.tolist()] + list(last)


def within(rows: Iterable[Row], *, tokens: int) -> Iterator[Row]:
    """Rows until they have so many single tokens, with long texts cut."""
    for row in rows:
        tokens -= sum(len(turn["tokens"]) for turn in row["turns"])
        if tokens < 0:
            return
        yield row | {
            "prompt": cut(row["prompt"]),
            "completion": cut(row["completion"]),
            "turns": [
                turn | {"text": cut(turn["text"]), "calls": [cut(call) for call in turn["calls"]]}
                for turn in row["turns"]
            ],
        }
