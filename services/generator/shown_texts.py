"""Texts of a few groups for the live page: a coordinator may be where no tokenizer is."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from asyncds.telemetry.rollouts.texts import cut

EVERY_SECONDS = 10.0


class ShownTexts:
    """Gives the texts of a group every few seconds, so that they cost next to nothing."""

    def __init__(self, tokenizer: Any, *, now: Callable[[], float] = time.monotonic) -> None:
        self._tokenizer = tokenizer
        self._now = now
        self._next = now()

    def of(self, prompt: Sequence[int], completions: Sequence[str]) -> list[str]:
        """The prompt as text, then the completions, long ones without their middle; or nothing."""
        if self._now() < self._next:
            return []
        self._next = self._now() + EVERY_SECONDS
        text = self._tokenizer.decode(list(prompt), skip_special_tokens=True)
        return [cut(text), *map(cut, completions)]
