"""Texts for people: of a group now and then, and none too long."""

from types import SimpleNamespace

from asyncds.telemetry.rollouts.texts import MOST_CHARACTERS
from services.generator.shown_texts import EVERY_SECONDS, ShownTexts


def test_the_texts_of_a_group_are_given_every_few_seconds() -> None:
    seconds = [5.0]
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)))
    shown = ShownTexts(tokenizer, now=lambda: seconds[0])
    assert shown.of([1, 2], ["a", "b"]) == ["1 2", "a", "b"]
    seconds[0] += EVERY_SECONDS - 0.1
    assert shown.of([1, 2], ["a", "b"]) == []
    seconds[0] += 0.2
    prompt, completion = shown.of([3], ["x" * 5 * MOST_CHARACTERS])
    assert prompt == "3"
    assert len(completion) < 1.1 * MOST_CHARACTERS
