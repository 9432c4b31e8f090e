"""Countdown with a calculator: what it says, and which answers count."""

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.tasks.base import Row, Score, Split
from asyncds.tasks.countdown.calculator import CalculatorTask
from asyncds.tasks.countdown.problems import Space
from asyncds.tasks.environment import Answer
from asyncds.tiny import calculator as lesson

ROW = Row(0, {"numbers": [2, 3, 4], "target": 10})


def play(*turns: str, row: Row = ROW) -> tuple[list[str], Score]:
    """What the calculator said, and the score."""
    episode, said = CalculatorTask().start(row), []
    for turn in turns:
        reply = episode.step(turn)
        if isinstance(reply, Score):
            return said, reply
        said += reply.texts
    return said, episode.cut_off()


def test_a_right_answer_counts_once_it_was_asked_for() -> None:
    said, score = play("2 * 3 + 4 =", "2 * 3 + 4")
    assert said == ["10 :"]
    assert score == Score(1.0, True, score.answers, {"calls": 1, "tool_errors": 0})
    said, score = play("2 + 3 + 4 =", "2 * 3 + 4 =", "( 2 * 3 ) + 4")
    assert said == ["9 :", "10 :"]
    assert (score.reward, score.correct, score.parts["calls"]) == (1, True, 2)


@pytest.mark.parametrize(
    "turns",
    [
        ["2 * 3 + 4"],
        ["2 + 3 + 4 =", "2 * 3 + 4"],
        ["2 * 3 + 4 =", "4 + 2 * 3"],
        ["2 + 3 + 4 =", "2 + 3 + 4"],
        ["5 + 5 =", "5 + 5"],
        ["2 * 3 + 4 =", ""],
        ["2 * 3 + 4 ="],
    ],
    ids=["guess", "another asked", "written otherwise", "wrong", "other numbers", "none", "cut"],
)
def test_others_do_not(turns: list[str]) -> None:
    _, score = play(*turns)
    assert (score.reward, score.correct) == (0, False)


@pytest.mark.parametrize("call", ["2 / 0 =", "2 + =", "=", "x ="])
def test_calls_without_a_value_are_counted(call: str) -> None:
    said, score = play(call, "2 * 3 + 4")
    assert said == ["- :"]
    assert score.parts == {"calls": 1, "tool_errors": 1}


@pytest.mark.parametrize("call", ["1 / 3 =", "2 - 4 =", "50 * 2 ="])
def test_values_that_have_no_word_are_no_errors(call: str) -> None:
    said, score = play(call)
    assert said == ["- :"]
    assert score.parts == {"calls": 1, "tool_errors": 0}


@given(st.text(alphabet="0123456789+-*/()= ", max_size=20))
def test_whatever_is_said_is_answered(text: str) -> None:
    reply = CalculatorTask().start(ROW).step(text)
    assert isinstance(reply, Answer) == text.rstrip().endswith("=")


@pytest.mark.parametrize("split", get_args(Split))
def test_its_own_turns_solve_a_row(split: Split) -> None:
    task = CalculatorTask(n_eval=8, n_validation=8)
    rows: Sequence[Row] = task.rows(split)[:8]
    for row in rows:
        _, score = play(*task.own_turns(row), row=row)
        assert score.correct


def test_the_base_model_is_taught_what_the_calculator_says() -> None:
    groups = lesson.taught(Space(operands=3, max_number=4), held_out=4, seed=0)
    transcripts = [(p, text) for group in groups for p, texts in group for text in texts]
    assert transcripts
    for prompt, text in transcripts:
        numbers, target = prompt.removesuffix(" :").split(" = ")
        row = Row(0, {"numbers": list(map(int, numbers.split())), "target": int(target)})
        turns = [part.rpartition(": ")[2] for part in text.split(" =")]
        said, score = play(*(f"{turn} =" for turn in turns[:-1]), turns[-1], row=row)
        assert [word in text for word in said] == [True] * len(said)
        assert score.correct == (f"{turns[-1]} = {target} :" in text)
