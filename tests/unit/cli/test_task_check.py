"""`asyncds task check` on data and rewards of a stranger: what it shows and what it finds wrong."""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asyncds.cli import task_check
from asyncds.cli.task_check import OTHER, OWN, TaskReport, check_task
from asyncds.cli.task_check_view import view
from asyncds.config.load import parse_config
from asyncds.launch.errors import UserError
from tests.support.paths import ROOT

REWARDS = """
def right(completion, answer):
    return completion.split() == [answer]

def tagged(completion, answer):
    return f"<mine>{answer}</mine>" in completion

def same(completion):
    return 0.5

def anything(completion):
    return True

def raises(completion, answer):
    return 1 / len(completion)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "odd.py").write_text(REWARDS)
    with (tmp_path / "sums.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["numbers", "answer"])
        rows.writerows([f"{n} 2 3 = {n} :", str(n)] for n in range(1, 10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ASYNCDS_CODE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield
    sys.modules.pop("odd", None)


def checked(reward: str = "odd:right", **values: Any) -> TaskReport:
    task = {
        "kind": "dataset",
        "train": "sums.csv",
        "prompt": "numbers",
        "prompt_style": "plain",
        "reward": reward,
        "n_eval": 2,
    }
    model = str(ROOT / "asyncds" / "tiny" / "shipped")
    return check_task(
        parse_config({"model": model, "sampling": {"max_tokens": 8}, "task": task} | values),
        rows=2,
    )


def printed(report: TaskReport) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(view(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_task_that_is_fine_is_shown_as_the_model_sees_it() -> None:
    report = checked()
    assert report.problems == []
    assert report.sizes == {"train": 7, "validation": 0, "eval": 2}
    assert len(report.lengths) == 9
    assert {(shown.split, shown.tokens) for shown in report.shown} == {("train", 6), ("eval", 6)}
    by_kind = {tried.kind: tried for tried in report.tried}
    assert by_kind[OWN].correct == 4
    assert by_kind[OTHER].correct == by_kind["nothing"].correct == 0
    text = printed(report)
    assert "2 3 = " in text
    assert "nothing is wrong with it" in text


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("odd:tagged", "the row's own answer is not correct in 4 of 4 rows"),
        ("odd:same", "every completion earned 0.5: nothing can be learnt"),
        ("odd:anything", "nothing is correct in 4 of 4 rows: the reward asks for too little"),
        ("odd:raises", "nothing: 4 of 4 could not be judged (exception: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_reward_is_said(reward: str, says: str) -> None:
    report = checked(reward)
    assert says in "\n".join(report.problems)
    assert "problem: " in printed(report)


def test_prompts_that_do_not_fit_are_counted() -> None:
    report = checked(generator={"max_model_len": 13})
    assert any("7 of 7 prompts of train have more than the 5 tokens" in p for p in report.problems)


def test_a_task_that_cant_be_made_is_bad_input() -> None:
    with pytest.raises(UserError, match="can't be imported"):
        checked("odd:none")


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "countdown", "n_eval": 4},
        {"kind": "countdown", "n_eval": 4, "prompt_style": "chat"},
        {"kind": "knights_knaves", "n_eval": 4},
        {"kind": "knights_knaves", "n_eval": 4, "prompt_style": "chat"},
    ],
)
def test_other_tasks_own_answers_are_right(task: dict[str, Any]) -> None:
    chat = {"chat": {"template": "{{ messages[0].content }}"}} if "prompt_style" in task else {}
    report = checked(task=task | chat)
    by_kind = {tried.kind: tried for tried in report.tried}
    assert by_kind[OWN].correct == len(by_kind[OWN].replies) > 0


def test_an_episode_is_played_turn_by_turn() -> None:
    report = checked(task={"kind": "calculator", "n_eval": 4})
    assert report.problems == []
    by_kind = {tried.kind: tried for tried in report.tried}
    assert by_kind[OWN].correct == len(by_kind[OWN].replies) == 4
    assert by_kind[OTHER].correct == 0
    assert report.episode is not None
    call, value, answer = report.episode.said
    assert call == (f"{answer[0]} =", True)
    assert value == (f"{report.episode.row.fields['target']} :", False)
    shown = printed(report)
    assert f"▸ {answer[0]} =" in shown
    assert f"◂ {value[0]}" in shown
    assert "reward 1, correct, calls 1, tool_errors 0" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [("again", "a limit of `episodes` ends it"), ("raise", "no score: exception KeyError")],
)
def test_an_environment_without_turns_of_its_own_is_tried_all_the_same(
    words: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_check, "UNRELATED", words)
    kind = "tests.support.hostile_environment:HostileEnvironment"
    report = checked(task={"kind": kind}, episodes={"max_turns": 2})
    assert any("own_turns" in note for note in report.notes)
    shown = printed(report)
    assert f"▸ {words}" in shown
    assert says in shown
