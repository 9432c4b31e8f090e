"""Programs as answers, run in real sandboxes under a real scorer."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.cli.task_check import OWN, check_task
from asyncds.config.engines import ScoringConfig
from asyncds.config.load import ConfigError, parse_config
from asyncds.config.tasks import task_options
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import ScorerUnavailableError
from asyncds.tasks.base import Score, reward_parts
from asyncds.tasks.code.answer import fenced, last_program
from asyncds.tasks.code.cases import found
from asyncds.tasks.code.judge import REASONS
from asyncds.tasks.code.task import CodeTask
from asyncds.tasks.registry import make_task
from tests.support.hostile_programs import LIMITS, PROGRAMS
from tests.support.paths import ROOT

SUMS = [
    {
        "problem": f"Print the sum of the numbers of a line, and {n}.",
        "tests": {"input": ["1 2\n", "5\n", "-1 1"], "output": [f"{3 + n}", f"{5 + n}\n", f"{n}"]},
        "solution": f"print(sum(map(int, input().split())) + {n})",
    }
    for n in range(6)
]
SUM = "print(sum(map(int, input().split())) + N)"
COLUMNS = {
    "prompt": "problem",
    "inputs": "tests.input",
    "outputs": "tests.output",
    "solution": "solution",
}
TINY = ROOT / "asyncds" / "tiny" / "shipped"
UNITS = {"prompt": "problem", "tests": "tests"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def values(rows: Sequence[dict[str, Any]], **options: Any) -> dict[str, Any]:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "code", "train": "rows.jsonl", "n_eval": 1, **options}


def made(rows: Sequence[dict[str, Any]] = SUMS, **options: Any) -> CodeTask:
    config = parse_config({"model": "none", "task": values(rows, **(options or COLUMNS))})
    task = make_task("code", **task_options(config.task, tokenizer="none"))
    assert isinstance(task, CodeTask)
    return task


def scored(program: str, rows: Sequence[dict[str, Any]] = SUMS, **options: Any) -> Score:
    task = made(rows, **options)
    row = task.rows("train")[0]
    n = row.fields["prompt"].split()[-1].rstrip(".")
    return task.score(row, f"It is:\n```python\n{program.replace('N', n)}\n```")


def reason(score: Score) -> str:
    names = [name for name, value in score.parts.items() if name != "cases" and value]
    assert score.correct == (not names)
    return " ".join(names)


class TestTheProgram:
    def test_the_last_block_counts(self) -> None:
        assert last_program("```\na\n```\nor\n```python\nb\n```\nDone.") == "b\n"

    @pytest.mark.parametrize("tag", ["", "python", "Python", "py", "python3", "python title=x"])
    def test_tags_of_python(self, tag: str) -> None:
        assert last_program(f"```{tag}\nx = 1\n```") == "x = 1\n"

    @pytest.mark.parametrize(
        "answer", ["", "x = 1", "```\nx = 1", "```cpp\nint x;\n```", "```\n\n```", "`x = 1`"]
    )
    def test_no_program(self, answer: str) -> None:
        assert last_program(answer) is None

    @given(st.text().filter(lambda text: text.strip() and "```" not in text))
    def test_what_is_fenced_is_found(self, program: str) -> None:
        assert last_program(fenced(program)) == program.rstrip() + "\n"

    @given(st.text())
    def test_any_text_is_accepted(self, text: str) -> None:
        last_program(text)


class TestCases:
    @pytest.mark.parametrize(
        ("columns", "name", "value"),
        [
            ({"a": ["x"]}, "a", ["x"]),
            ({"a": '["x", "y"]'}, "a", ["x", "y"]),
            ({"a": {"b": ["x"]}}, "a.b", ["x"]),
            ({"a": '{"b": ["x"]}'}, "a.b", ["x"]),
            ({"a": [{"b": "x"}, {"b": "y"}]}, "a.b", ["x", "y"]),
            ({"a": '[{"b": "x"}]'}, "a.b", ["x"]),
            ({"a.b": "x", "a": {"b": "y"}}, "a.b", "x"),
            ({"a": "[1, "}, "a", "[1, "),
            ({"a": 3}, "a.b", None),
        ],
    )
    def test_forms_of_data_sets(self, columns: dict[str, Any], name: str, value: Any) -> None:
        assert found(columns, name) == value

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ({"inputs": ["1"], "outputs": []}, "row 0 of data set 'rows.jsonl' has 1 inputs and 0"),
            ({"inputs": [], "outputs": []}, "has 0 inputs and 0 outputs: a case needs one of each"),
            ({"inputs": None, "outputs": ["1"]}, "has 0 inputs and 1 outputs"),
            ({"inputs": [{"a": 1}], "outputs": ["1"]}, "has a case that is no text"),
        ],
    )
    def test_a_row_without_cases_is_a_bad_one(self, row: dict[str, Any], says: str) -> None:
        rows = [
            {"problem": "p", **row},
            *({"problem": f"{i}", "inputs": ["1"], "outputs": ["1"]} for i in range(4)),
        ]
        columns = {"prompt": "problem", "inputs": "inputs", "outputs": "outputs"}
        with pytest.raises(ValueError, match=says):
            made(rows, **columns).rows("train")
        assert len(made(rows, **columns, bad_rows="skip").rows("train")) == 3

    def test_a_column_that_is_not_there(self) -> None:
        with pytest.raises(
            ValueError, match=r"no column test, but .*: name the columns of the case"
        ):
            made(**COLUMNS | {"inputs": "test.input"}).rows("train")

    @pytest.mark.parametrize(
        "options",
        [{}, {"inputs": "a"}, {"outputs": "a"}, {"inputs": "a", "outputs": "b", "tests": "c"}],
    )
    def test_one_kind_of_cases_is_named(self, options: dict[str, str]) -> None:
        with pytest.raises(
            ConfigError, match=r"set task\.inputs and task\.outputs, or task\.tests"
        ):
            parse_config({"model": "none", "task": values(SUMS, **options)})

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"scoring": {"timeout_seconds": 8.5}}, "scoring.timeout_seconds 8.5 would end"),
            (
                {"scoring": {"memory_mb": 256}},
                "task.sandbox.memory_mb 512 is more than the scoring.memory_mb 256",
            ),
        ],
    )
    def test_limits_fit_into_each_other(self, more: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            parse_config({"model": "none", "task": values(SUMS, **COLUMNS), **more})

    def test_only_the_first_cases(self) -> None:
        row = made(**COLUMNS, max_cases=2).rows("train")[0]
        assert len(row.fields["columns"]["cases"]) == 2


class TestStandardInput:
    def test_a_right_program(self) -> None:
        assert scored(SUM) == Score(1.0, True, scored(SUM).answers, {"cases": 1.0})

    def test_spaces_make_no_difference_and_lines_do(self) -> None:
        assert scored(
            SUM.replace("print(", "print('', ").replace(" + N)", " + N, '\\n\\n')")
        ).correct
        assert reason(
            scored("for x in str(sum(map(int, input().split())) + N): print(x)\nprint()")
        ) in ("", "wrong")

    @pytest.mark.parametrize(
        ("program", "why", "share"),
        [
            ("print(3 + N)", "wrong", 1 / 3),
            ("print()", "wrong", 0),
            ("1 / 0", "crash", 0),
            ("while True: pass", "timeout", 0),
            ("x = bytearray(10**10)", "memory", 0),
            ("while True: print('x' * 99)", "output", 0),
            (SUM + "\nif N >= 0: exit(1)", "crash", 0),
        ],
    )
    def test_reasons(self, program: str, why: str, share: float) -> None:
        limits = {"cpu_seconds": 0.5} if why == "timeout" else {}
        score = scored(program, **COLUMNS, sandbox=limits, partial=True)
        assert (reason(score), score.parts["cases"], score.reward) == (why, share, share)
        assert scored(program, **COLUMNS, sandbox=limits).reward == 0

    def test_no_code(self) -> None:
        task = made()
        score = task.score(task.rows("train")[0], "I can't.")
        assert score == Score(0.0, False, (), {"no_code": 1.0})

    def test_time_is_for_all_cases_together(self) -> None:
        score = scored("import time\ntime.sleep(1)\n" + SUM, **COLUMNS, seconds=1.7, partial=True)
        assert reason(score) == "timeout"
        assert score.parts["cases"] < 1

    def test_reasons_are_declared_parts(self) -> None:
        assert {*REASONS, "cases", "no_code"} == {*reward_parts(made())}


class TestUnitTests:
    FUNCTION = "def double(x):\n    return 2 * x"

    def judged(self, program: str, tests: Any, template: str = "tests") -> Score:
        rows = [{"problem": f"p {i}", "tests": tests, "name": "double"} for i in range(3)]
        return scored(program, rows, **UNITS | {"tests": template}, partial=True)

    @pytest.mark.parametrize(
        "tests",
        [
            "assert double(2) == 4",
            ["assert double(2) == 4", "assert double('a') == 'aa'"],
            "from solution import double\ndef test_it():\n    assert double(0) == 0",
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test_it(self):\n        self.assertEqual(double(1), 2)",
        ],
    )
    def test_forms_of_tests(self, tests: Any) -> None:
        assert self.judged(self.FUNCTION, tests).correct
        assert reason(self.judged("def double(x):\n    return x + 7", tests)) == "wrong"
        assert reason(self.judged("double = 7", tests)) in ("crash", "wrong")

    def test_a_template(self) -> None:
        test = "def check(f):\n    assert f(2) == 4"
        assert self.judged(self.FUNCTION, test, "{tests}\ncheck({name})").correct
        assert not self.judged("def double(x): return x", test, "{tests}\ncheck({name})").correct

    def test_a_share(self) -> None:
        score = self.judged(
            "def double(x): return 4", ["assert double(2) == 4", "assert double(3) == 6"]
        )
        assert (score.reward, reason(score)) == (0.5, "wrong")

    @pytest.mark.parametrize(
        "program",
        ["exit(0)", "import os\nos._exit(0)", "print('passed')", "double = 1\nraise SystemExit"],
    )
    def test_who_ends_before_the_test_has_not_passed_it(self, program: str) -> None:
        assert not self.judged(program, "assert double(2) == 4").correct

    def test_what_an_answer_prints_does_not_matter(self) -> None:
        assert self.judged(
            self.FUNCTION + "\nprint('hello')", "print(1)\nassert double(2) == 4"
        ).correct


def test_one_of_several_tasks() -> None:
    """As part of a mixture, in a scorer's process, which finds out about its sandbox."""
    part = values(SUMS, **COLUMNS, prompt_style="plain")
    task = {"kind": "mixture", "tasks": {"sums": {"kind": "countdown"}, "code": part}}
    config = parse_config({"model": "none", "task": task}).task
    options = task_options(config, tokenizer="none")
    mixture = make_task("mixture", **options)
    row = next(row for row in mixture.rows("train") if row.fields["task"] == "code")

    async def test(pool: ProcessPoolScorer) -> None:
        async with asyncio.timeout(100), pool as scorer:
            judged = await scorer.score(row, ["```python\nprint(1)\n```"])
            assert (judged.errors, reason(judged.scores[0])) == ({}, "wrong")

    def pool() -> ProcessPoolScorer:
        return ProcessPoolScorer(kind="mixture", options=options, settings=ScoringConfig())

    asyncio.run(test(pool()))
    options["tasks"]["code"]["options"]["sandbox"]["memory_mb"] = 2048
    with pytest.raises(ScorerUnavailableError, match=r"no sandbox: .*AS"):
        asyncio.run(test(pool()))


def test_task_check_tries_the_own_answer_and_rubbish() -> None:
    config = parse_config(
        {
            "model": "none",
            "task": values(SUMS, **COLUMNS, prompt_style="plain"),
            "scoring": {"timeout_seconds": 30},
        }
    )
    report = check_task(config, rows=2)
    assert report.problems == []
    own = next(tried for tried in report.tried if tried.kind == OWN)
    assert own.rewards == [1.0] * 3
    assert all(tried.correct == 0 for tried in report.tried if tried.kind != OWN)


def test_task_check_says_that_an_own_answer_is_wrong() -> None:
    rows = [row | {"solution": "print(1)"} for row in SUMS]
    config = parse_config(
        {"model": str(TINY), "task": values(rows, **COLUMNS, prompt_style="plain")}
    )
    assert any(
        "the row's own answer is not correct" in p for p in check_task(config, rows=2).problems
    )


@pytest.mark.parametrize("by_time", [False, True])
def test_each_hostile_program_costs_one_rollout_and_the_next_is_right(by_time: bool) -> None:
    """In one scorer process, which lives on and keeps nothing of them."""
    limits = LIMITS.model_dump() | ({"cpu_seconds": 1.0, "seconds": 4.0} if by_time else {})
    chosen = {name: one for name, one in PROGRAMS.items() if (one.reason == "timeout") == by_time}
    row = made().rows("train")[0]
    [right] = made().own_answers(row)
    options = values(SUMS, **COLUMNS, sandbox=limits, seconds=60)
    del options["kind"]

    async def test() -> None:
        pool = ProcessPoolScorer(
            kind="code",
            options=options,
            settings=ScoringConfig(timeout_seconds=70),
        )
        async with asyncio.timeout(250), pool as scorer:
            [worker] = psutil.Process().children()
            for name, hostile in chosen.items():
                judged = await scorer.score(row, [fenced(hostile.program), right])
                bad, good = judged.scores
                assert judged.errors == {}, name
                assert good.correct, name
                assert (bad.reward, bad.correct, len(reason(bad).split())) == (0.0, False, 1), name
                if hostile.reason not in (None, "crash"):
                    assert reason(bad) == hostile.reason, name
            assert psutil.Process().children() == [worker]
            assert worker.children(recursive=True) == []

    asyncio.run(test())
