"""The math task: boxes, verdicts, what hostile answers can't do, and problems from data sets."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import NO_SCORE
from asyncds.tasks.base import Row, Score, evaluation_sets, fingerprint
from asyncds.tasks.math.boxes import boxed
from asyncds.tasks.math.guard import GeneratedCodeError, no_generated_code
from asyncds.tasks.math.task import INSTRUCTION, MathTask
from asyncds.tasks.math.verifier import MAX_CHARACTERS, score_boxed
from asyncds.tasks.registry import make_task

# What stands under \overline becomes the name of a symbol, with "bar" before it; form feeds stay in
# it, and are white space to Python. Without the guard, comparing this sum with √2 runs the name.
EXITS = r"\sum_{n=0}^{\infty} \frac{\overline{NAME}^n}{n!}".replace(
    "NAME", "\fif\f0\felse\fexit(3)"
)


def box(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


class TestBoxed:
    @pytest.mark.parametrize(
        ("text", "content"),
        [
            (r"so \boxed{5}.", "5"),
            (r"\boxed{1} or rather \boxed{2}", "2"),
            (r"\boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
            (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
            (r"\boxed{3} and then \boxed{4", None),
            (r"\boxed{3} and then \boxed{", None),
            (r"\boxed{x \boxed{3}", "3"),
            (r"\boxed{\boxed{6}}", r"\boxed{6}"),
            (r"\boxed {7}", "7"),
            (r"\fbox{8}", "8"),
            (r"} } \boxed{9} { {", "9"),
            (r"\boxed{}", ""),
            (r"\boxed{a}b}", "a"),
            (r"\boxed5", None),
            (r"\boxed{10", None),
            (r"boxed{11}", None),
            ("the answer is 12", None),
            ("", None),
        ],
    )
    def test_the_last_closed_box(self, text: str, content: str | None) -> None:
        assert boxed(text) == content

    @given(st.text(), st.text(alphabet="{}\\ boxed123"))
    def test_any_text(self, before: str, after: str) -> None:
        found = boxed(before + after)
        assert found is None or found in before + after

    @given(st.text(alphabet="ab c+1\n"), st.text(alphabet="{}abc$ "))
    def test_it_is_found_after_anything(self, content: str, before: str) -> None:
        assert boxed(before + box(content)) == content


class TestScore:
    @pytest.mark.parametrize(
        "completion",
        ["", "5", r"\boxed{", r"\boxed{}", r"\boxed{ }", r"the answer is $5$", r"\boxed{5"],
    )
    def test_no_answer(self, completion: str) -> None:
        assert score_boxed(completion, "5") == Score(0.0, False)

    def test_the_last_box_counts(self) -> None:
        assert score_boxed(rf"{box('4')} no, {box('5')}", "5").correct
        assert not score_boxed(rf"{box('5')} no, {box('4')}", "5").correct

    def test_correct_answers_are_one_answer(self) -> None:
        right = {score_boxed(box(text), "(x+1)^2").answers for text in ("x^2+2x+1", "(1+x)^2")}
        assert len(right) == 1
        wrong = {score_boxed(box(text), "(x+1)^2").answers for text in ("3", r"\frac62", "4")}
        assert right.isdisjoint(wrong)
        assert len(wrong) == 2

    @pytest.mark.parametrize("garbage", [r"\frac{", r"\sqrt[", "^^", r"\left(", "é∑", "%%", "1/0"])
    def test_garbage_is_wrong(self, garbage: str) -> None:
        assert not score_boxed(box(garbage) + box(garbage.replace("{", "")), "5").correct

    def test_too_long_an_answer_is_none(self) -> None:
        assert score_boxed(box("5" + " " * (MAX_CHARACTERS - 1)), "5").correct
        assert score_boxed(box("5" + " " * MAX_CHARACTERS), "5") == Score(0.0, False)

    def test_a_huge_completion_takes_no_time(self) -> None:
        for part in (r"\boxed{", "{", "}", r"\boxed{1}", "\\", "$"):
            assert score_boxed(part * 200_000 + "}" + box("5"), "5").correct

    # No powers here: a tower of them takes for ever, which is for the scorer to end.
    @settings(deadline=None, max_examples=150)
    @given(st.text(), st.text(alphabet="0123456789+-*/{}()[],.=<>\\ $%xyabsqrtfn", max_size=30))
    def test_any_text_gets_a_verdict(self, text: str, latex: str) -> None:
        for answer in (text, text.replace("{", "").replace("}", "")):
            score = score_boxed(answer + box(answer), "1/2")
            assert score.reward == float(score.correct)
        assert isinstance(score_boxed(box(latex), "x").correct, bool)

    def test_an_error_of_the_verifier_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> bool:
            raise ArithmeticError("no verdict")

        monkeypatch.setattr("math_verify.grader.sympy_expr_eq", broken)
        with pytest.raises(ArithmeticError):
            score_boxed(box("x + 3"), "x + 5")


class TestGuard:
    def test_a_name_does_not_run(self) -> None:
        assert not score_boxed(box(EXITS), r"\sqrt{2}").correct
        assert not score_boxed(box(rf"\{{{EXITS}\}}"), r"\{1\}").correct

    def test_the_threat_is_real(self) -> None:
        """The same answer ends a process that compares it without the guard."""
        code = (
            "from math_verify import parse, verify\n"
            f"given = parse({box(EXITS)!r})\n"
            "verify(parse(r'\\boxed{\\sqrt{2}}'), given)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
        assert done.returncode == 3, done.stderr.decode()

    @pytest.mark.parametrize("source", ["print(1)", "x", "__import__('os')", "lambda: 0", "'a'"])
    def test_text_is_not_compiled(self, source: str) -> None:
        with no_generated_code(), pytest.raises(GeneratedCodeError):
            eval(source)
        with no_generated_code(), pytest.raises(GeneratedCodeError):
            exec(source)
        compile(source, "<string>", "exec")

    def test_expressions_are_not_made_code(self) -> None:
        from sympy import Symbol, lambdify

        x = Symbol("x")
        # The first use of "math" compiles imports, and a later one nothing but the expression.
        assert lambdify(x, x + 1, "math")(1) == 2
        with no_generated_code(), pytest.raises(GeneratedCodeError):
            lambdify(x, x + 1, "math")

    def test_files_and_numbers_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "imported_under_guard.py").write_text("x = 1\n")
        monkeypatch.syspath_prepend(tmp_path)
        with no_generated_code():
            import imported_under_guard  # type: ignore[import-not-found]

            assert eval("(1.5 + 2) / 7") == 0.5
        assert imported_under_guard.x == 1

    def test_it_ends_with_an_error_too(self) -> None:
        with pytest.raises(KeyError), no_generated_code():
            raise KeyError
        assert eval("abs(-1)") == 1


DAPO = [
    {"prompt": "What is 1 + 1?", "solution": "2", "reward_model": {"ground_truth": "2"}},
    {"prompt": "What is half of 1?", "solution": "0.5", "reward_model": {"ground_truth": "0.5"}},
    {"prompt": "Solve x^2 = 4.", "solution": "-2, 2", "reward_model": {"ground_truth": "-2, 2"}},
    {"prompt": "What is  1 + 1?", "solution": "3", "reward_model": {"ground_truth": "3"}},
    {"prompt": "What is 2 * 3?", "solution": "6", "reward_model": {"ground_truth": "6"}},
]
MATH_500 = [
    {"problem": "What is 2 * 3?", "solution": r"It is $\boxed{6}$.", "answer": "6"},
    {
        "problem": "Find $(r,\\theta)$.",
        "solution": "…",
        "answer": r"\left( 3, \frac{\pi}{2} \right)",
    },
]
AIME = [{"id": 60, "problem": "Every morning …", "answer": 204}]
OLYMPIAD = [{"question": "Find all pairs.", "final_answer": ["$(1,7)$", "$(2,-3)$"]}]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Data sets in the columns and layouts of those on the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, rows in (("dapo/train", DAPO), ("math/test", MATH_500), ("olympiad/train", OLYMPIAD)):
        path = tmp_path / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir()
        datasets.Dataset.from_list(rows).to_parquet(path)
    (tmp_path / "aime.jsonl").write_text("".join(json.dumps(row) + "\n" for row in AIME))
    dapo = {"dataset": str(tmp_path / "dapo"), "problem_field": "prompt"}
    return {
        "dapo": {**dapo, "answer_field": "solution"},
        "nested": {**dapo, "answer_field": "reward_model.ground_truth"},
        "math": {"dataset": str(tmp_path / "math"), "split": "test"},
        "boxed": {"dataset": str(tmp_path / "math"), "split": "test", "answer_field": "solution"},
        "aime": {"dataset": str(tmp_path / "aime.jsonl")},
        "olympiad": {
            "dataset": str(tmp_path / "olympiad"),
            "problem_field": "question",
            "answer_field": "final_answer",
        },
    }


Sets = dict[str, dict[str, Any]]


def problems(task: MathTask, split: Any) -> list[str]:
    return [row.fields["problem"] for row in task.rows(split)]


class TestTask:
    def test_rows_and_prompts(self, sets: Sets) -> None:
        task = make_task("math", train=[sets["dapo"]], eval=[sets["math"], sets["aime"]])
        assert task.name == "math"
        assert task.equivalences == (task.equivalence,) == ("value",)
        rows = task.rows("eval")
        assert [row.index for row in rows] == [0, 1, 2]
        assert rows[2] == Row(2, {"problem": "Every morning …", "answer": "204"})
        assert task.prompt(rows[2]) == [
            {"role": "user", "content": f"Every morning …\n\n{INSTRUCTION}"}
        ]
        assert task.score(rows[2], box("204")).reward == 1.0
        assert task.score(rows[1], box(r"(3, \pi/2)")).correct
        assert task.multiplicity(rows[0]) == {"value": 1}

    def test_an_evaluation_needs_no_problems_to_train_on(self, sets: Sets) -> None:
        task = make_task("math", eval=[sets["math"]])
        assert [len(task.rows("train")), len(task.rows("eval"))] == [0, 2]

    def test_every_data_set_to_evaluate_on_is_a_set(self, sets: Sets) -> None:
        evaluated = [sets["math"], sets["aime"], sets["math"], {**sets["olympiad"], "name": "hard"}]
        task = MathTask(train=[sets["dapo"]], eval=evaluated)
        found = evaluation_sets(task, "eval")
        assert [name for name, _ in found] == ["math", "aime", "math-test", "hard"]
        assert sum(n for _, n in found) == len(task.rows("eval"))
        assert evaluation_sets(task, "train") == []
        one = MathTask(train=[sets["dapo"]], eval=[sets["math"]])
        other = MathTask(train=[sets["dapo"]], eval=[{**sets["math"], "name": "hard"}])
        assert one.fingerprint() != other.fingerprint()

    def test_no_problem_is_in_two_splits_or_twice(self, sets: Sets) -> None:
        task = MathTask(train=[sets["dapo"], sets["dapo"]], eval=[sets["math"]], n_validation=1)
        train, validation = problems(task, "train"), problems(task, "validation")
        assert sorted(train + validation) == sorted(row["prompt"] for row in DAPO[:3])
        assert len(validation) == 1
        (first,) = (r for s in ("train", "validation") for r in task.rows(s) if "+" in str(r))  # type: ignore[arg-type]
        assert first.fields["answer"] == "2"

    def test_the_seed_holds_out(self, sets: Sets) -> None:
        def held_out(seed: int) -> list[str]:
            task = MathTask(train=[sets["dapo"]], eval=[sets["aime"]], n_validation=2, seed=seed)
            return problems(task, "validation")

        assert held_out(1) == held_out(1)
        assert len({tuple(held_out(seed)) for seed in range(9)}) > 1

    def test_columns(self, sets: Sets) -> None:
        task = MathTask(train=[sets["nested"]], eval=[sets["boxed"], sets["olympiad"]])
        assert {row.fields["answer"] for row in task.rows("train")} == {"2", "0.5", "-2, 2"}
        by_solution, _, pairs = task.rows("eval")
        assert task.score(by_solution, box("6")).correct
        assert task.score(pairs, box("(2,-3), (1,7)")).correct
        assert not task.score(pairs, box("(1,7)")).correct

    def test_the_first_n(self, sets: Sets) -> None:
        task = MathTask(train=[{**sets["dapo"], "n": 2}], eval=[{**sets["math"], "n": 1}])
        assert (len(task.rows("train")), len(task.rows("eval"))) == (2, 1)
        with pytest.raises(ValueError, match="has 5 rows, not 6"):
            MathTask(train=[{**sets["dapo"], "n": 6}], eval=[sets["math"]]).rows("train")

    def test_bad_data_sets_are_told(self, sets: Sets, tmp_path: Path) -> None:
        wrong = {**sets["dapo"], "answer_field": "answer"}
        with pytest.raises(ValueError, match=r"no column answer, but prompt, .* set problem_field"):
            MathTask(train=[wrong], eval=[sets["math"]]).rows("train")
        empty = tmp_path / "empty.jsonl"
        empty.write_text('{"problem": "?", "answer": "1"}\n{"problem": "?!", "answer": null}\n')
        with pytest.raises(ValueError, match=r"row 1 of data set .* has no text in answer"):
            MathTask(train=[{"dataset": str(empty)}], eval=[sets["math"]]).rows("train")

    def test_fingerprint(self, sets: Sets) -> None:
        variants: list[dict[str, Any]] = [
            {},
            {"seed": 1},
            {"n_validation": 1},
            {"train": [sets["dapo"], sets["aime"]], "eval": [sets["math"]]},
            {"eval": [sets["aime"], sets["math"]]},
        ]
        base = {"train": [sets["dapo"]], "eval": [sets["math"], sets["aime"]]}
        tasks = [MathTask(**{**base, **variant}) for variant in variants]
        assert len({task.fingerprint() for task in tasks}) == len(tasks)
        assert MathTask(**base).fingerprint() == fingerprint(tasks[0])

    def test_options_are_checked(self) -> None:
        with pytest.raises(ValueError, match="missing a required argument: 'eval'"):
            make_task("math", train=[])

    def test_scoring_needs_no_data_set(self) -> None:
        """Worker processes judge without the rows, and end a comparison that never ends."""

        async def scored() -> None:
            nowhere = [{"dataset": "/nowhere"}]
            async with ProcessPoolScorer(
                kind="math",
                options={"train": nowhere, "eval": nowhere},
                settings=ScoringConfig(timeout_seconds=5),
            ) as scorer:
                row = Row(0, {"problem": "?", "answer": "5"})
                hang = box("+".join(["9^{9^{9^{9}}}"] * 3))
                judged = await scorer.score(row, [box("5"), hang, box("5"), box(EXITS), "none"])
                scores = judged.scores
                right = Score(1.0, True, ("5",))
                assert [scores[0], scores[1], scores[2]] == [right, NO_SCORE, right]
                assert not scores[3].correct
                assert scores[4] == Score(0.0, False)
                assert sum(judged.errors.values()) == 1

        asyncio.run(scored())
