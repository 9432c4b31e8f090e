"""Several tasks as one: rows, prompts, judgements and sets are those of each task alone."""

from typing import Any, get_args

import pytest

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.tasks import each_task, task_options, task_weights
from asyncds.scoring.checked import checked
from asyncds.tasks.base import Split, evaluation_sets
from asyncds.tasks.mixture import MixtureTask, own, tasks_in
from asyncds.tasks.registry import make_task

PARTS: dict[str, Any] = {
    "sums": {"kind": "countdown", "n_eval": 5, "equivalence": "associative"},
    "puzzles": {"kind": "knights_knaves", "people": 2, "n_eval": 4, "n_validation": 3},
    "mine": {
        "kind": "tests.support.countdown_in_parts:CountdownInParts",
        "options": {"n_eval": 6},
    },
}


def made(**more: Any) -> MixtureTask:
    config = parse_config({"model": "m", "task": {"kind": "mixture", "tasks": PARTS, **more}})
    task = make_task(config.task.kind, **task_options(config.task, tokenizer="none"))
    assert isinstance(task, MixtureTask)
    return task


@pytest.mark.parametrize("split", get_args(Split))
def test_rows_are_those_of_each_task_in_turn(split: Split) -> None:
    mixture = made()
    rows = mixture.rows(split)
    expected = [(name, row) for name, task in tasks_in(mixture).items() for row in task.rows(split)]
    assert [row.index for row in rows] == [*range(len(expected))]
    for row, (name, its) in zip(rows, expected, strict=True):
        task, found = own(mixture, row)
        assert (task, found) == (mixture.tasks[name], its)
        assert mixture.prompt(row) == task.prompt(its)
    assert [*rows[-2:]] == [rows[i] for i in range(len(rows))][-2:]


def test_answers_are_judged_by_the_rows_own_task() -> None:
    mixture = made()
    for row in mixture.rows("eval"):
        task, its = own(mixture, row)
        (answer,) = task.own_answers(its)  # type: ignore[attr-defined]
        score = checked(task, mixture.score(row, answer))
        assert score == task.score(its, answer)
        assert score.correct
        assert mixture.multiplicity(row) == task.multiplicity(its)
    assert mixture.equivalences == ("written", "commutative", "associative", "assignment")
    assert mixture.reward_parts == ("answered", "right")


def test_every_task_is_an_evaluation_set_and_one_that_has_several_is_several() -> None:
    assert evaluation_sets(made(), "eval") == [
        ("sums", 5),
        ("puzzles", 4),
        ("mine.one", 3),
        ("mine.two", 3),
    ]
    assert [name for name, _ in evaluation_sets(made(), "train")] == ["sums", "puzzles", "mine"]


def test_processes_that_differ_in_a_task_are_told_apart() -> None:
    prints = {made().fingerprint()}
    for changed in ({"n_eval": 7}, {"seed": 1}):
        prints.add(made(tasks=PARTS | {"sums": PARTS["sums"] | changed}).fingerprint())
    prints.add(
        made(tasks={"renamed" if n == "sums" else n: p for n, p in PARTS.items()}).fingerprint()
    )
    assert len(prints) == 4
    assert made(weights={"sums": 3}).fingerprint() in prints, "weights change no row"


def test_weights_are_one_unless_given() -> None:
    task = parse_config(
        {"model": "m", "task": {"kind": "mixture", "tasks": PARTS, "weights": {"mine": 0.5}}}
    ).task
    assert task_weights(task) == {"sums": 1.0, "puzzles": 1.0, "mine": 0.5}
    assert [*each_task(task)] == ["task.tasks.sums", "task.tasks.puzzles", "task.tasks.mine"]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"tasks": {}}, "task.tasks: "),
        ({"tasks": {"a": {"kind": "countdwn"}}}, "task.tasks.a: unknown kind: choose calculator"),
        (
            {"tasks": {"a": {"kind": "countdown", "operandz": 3}}},
            "unknown key task.tasks.a.operandz: did you mean task.tasks.a.operands?",
        ),
        ({"tasks": {"a": {"kind": "countdown", "operands": 99}}}, "task.tasks.a.operands: "),
        (
            {"tasks": {"a": {"kind": "dataset", "reward": "exact"}}},
            "task.tasks.a: task.train",
        ),
        (
            {"tasks": {"a": {"kind": "math", "eval": [{"dataset": "x"}]}}},
            "task.tasks.a.train ",
        ),
        ({"tasks": {"a": {"kind": "mixture", "tasks": {}}}}, "task.tasks.a: unknown kind"),
        ({"tasks": {"a b": {"kind": "countdown"}}}, "'a b' can't be the name of a task: use up to"),
        (
            {"tasks": {"a": {"kind": "countdown"}}, "weights": {"b": 1}},
            "task.weights names b, and task.tasks has a: use the same names",
        ),
        ({"tasks": {"a": {"kind": "countdown"}}, "weights": {"a": 0}}, "task.weights.a: "),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_task(
    task: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": "m", "task": {"kind": "mixture", **task}})
    assert sentence in str(caught.value)


def test_a_task_that_cannot_be_made_is_named() -> None:
    broken = {"kind": "nowhere.at_all:Task", "options": {}}
    with pytest.raises(ValueError, match=r"^mine: nowhere.at_all:Task can't be imported"):
        make_task("mixture", tasks={"mine": broken})
