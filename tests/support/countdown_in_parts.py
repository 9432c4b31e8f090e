"""Countdown with parts of rewards, and of rows, for the tests of what shows them."""

from typing import Any

import msgspec

from asyncds.tasks.base import Row, Score, Split
from asyncds.tasks.countdown.task import CountdownTask


class CountdownInParts(CountdownTask):
    """Countdown that says of each completion whether it has an answer and whether it is right."""

    reward_parts = ("answered", "right")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def sets(self, split: Split) -> list[tuple[str, int]]:
        """Two of every split."""
        rows = len(self.rows(split))
        return [("one", rows // 2), ("two", rows - rows // 2)]

    def score(self, row: Row, completion: str) -> Score:
        score = super().score(row, completion)
        parts = {"answered": float(bool(score.answers)), "right": float(score.correct)}
        return msgspec.structs.replace(score, parts=parts)
