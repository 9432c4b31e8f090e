"""Problems, their enumeration, the verifier and the task, of which none imports torch."""

import json
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.tasks.base import Row
from asyncds.tasks.countdown.enumeration import expressions, multiplicity, solutions, values
from asyncds.tasks.countdown.expression import canonical, evaluate, leaves, write
from asyncds.tasks.countdown.problems import Space, every_problem, sample_problems
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.countdown.verifier import score_plain, score_tagged
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.registry import make_task
from asyncds.tasks.splits import hold_out

untimed = settings(deadline=None)
few_numbers = st.lists(st.integers(1, 12), min_size=1, max_size=3).map(lambda n: tuple(sorted(n)))


def written_by_hand(numbers: tuple[int, ...], target: int) -> set[str]:
    """Every solution over three numbers, as text, by brute force over the text itself."""
    found = set()
    shapes = ("{} {} {} {} {}", "( {} {} {} ) {} {}", "{} {} ( {} {} {} )")
    for a, b, c in permutations(numbers):
        for (p, q), shape in product(product("+-*/", repeat=2), shapes):
            score = score_plain(shape.format(a, p, b, q, c), numbers, target)
            if score.correct:
                found.add(score.answers[0])
    return found


class TestEnumeration:
    @untimed
    @given(few_numbers)
    def test_expressions_are_different_and_use_every_number(self, numbers: tuple[int, ...]) -> None:
        found = list(expressions(numbers))
        assert len({write(tree) for tree, _ in found}) == len(found)
        for tree, value in found:
            assert tuple(sorted(leaves(tree))) == numbers
            assert evaluate(tree) == value

    @untimed
    @given(few_numbers, st.booleans())
    def test_counts_agree_with_the_expressions(
        self, numbers: tuple[int, ...], natural: bool
    ) -> None:
        found = expressions(numbers, natural=natural)
        assert values(numbers, natural=natural) == Counter(value for _, value in found)

    @untimed
    @given(st.lists(st.integers(1, 12), min_size=3, max_size=3), st.integers(1, 30))
    def test_enumerated_is_what_the_verifier_accepts(self, numbers: list[int], target: int) -> None:
        ordered = tuple(sorted(numbers))
        assert {write(tree) for tree in solutions(ordered, target)} == written_by_hand(
            ordered, target
        )

    def test_three_equivalences(self) -> None:
        # 5 + 7 + 11, and nothing else: 6 orders of 2 shapes; without order, the number that is
        # added last; once.
        counts = {"written": 12, "commutative": 3, "associative": 1}
        assert multiplicity((11, 5, 7), 23) == counts

    def test_the_published_multiplicity_of_three_numbers(self) -> None:
        """arXiv 2511.19942 reports 6.5 for three numbers up to 99 and targets of 10 to 100."""
        rng = random.Random(0)
        counts = []
        for _ in range(1500):
            counted = values(tuple(sorted(rng.choices(range(1, 100), k=3))))
            targets = [v for v in counted if v.denominator == 1 and 10 <= v <= 100]
            counts += [counted[rng.choice(sorted(targets))]] if targets else []
        assert mean(counts) == pytest.approx(6.5, abs=0.3)


class TestProblems:
    def test_the_tiny_setting(self) -> None:
        problems = every_problem(Space())
        assert len(problems) == len(set(problems)) == 2905
        for problem in problems[::50]:
            assert next(solutions(problem.numbers, problem.target, natural=True))

    @settings(deadline=None, max_examples=20)
    @given(st.integers(2, 4), st.integers(3, 99), st.booleans(), st.integers(0, 9))
    def test_sampled_problems_have_a_solution(
        self, operands: int, max_number: int, natural: bool, seed: int
    ) -> None:
        space = Space(operands=operands, max_number=max_number, natural=natural)
        problems = sample_problems(space, 3, seed=seed)
        assert sample_problems(space, 2, seed=seed) == problems[:2]
        for problem in problems:
            assert len(problem.numbers) == operands
            assert all(1 <= n <= max_number for n in problem.numbers)
            assert values(problem.numbers, natural=natural)[Fraction(problem.target)] > 0

    def test_an_exhausted_space_is_said(self) -> None:
        with pytest.raises(ValueError, match="found only"):
            sample_problems(Space(operands=2, max_number=2), 9, seed=0)

    def test_held_out_problems_are_left_out(self) -> None:
        problems = every_problem(Space())
        train, held_out = hold_out(problems, 128, seed=3)
        assert len(held_out) == 128
        assert not set(train) & set(held_out)
        assert sorted(train + held_out) == problems
        assert hold_out(problems, 128, seed=3) == (train, held_out)
        assert hold_out(problems, 128, seed=4)[1] != held_out

    @pytest.mark.parametrize("n_eval", [-1, 2905])
    def test_holding_out_everything_is_refused(self, n_eval: int) -> None:
        with pytest.raises(ValueError, match="hold out"):
            hold_out(every_problem(Space()), n_eval, seed=0)


class TestVerifier:
    @pytest.mark.parametrize(
        ("text", "reward", "answer"),
        [
            ("2 * ( 10 + 5 )", 1.0, "2 * ( 10 + 5 )"),
            (" (2)*((10+5)) ", 1.0, "2 * ( 10 + 5 )"),
            ("10 + 5 * 2", 0.0, "10 + 5 * 2"),
            ("10 * 5 - 2 * 10", 0.0, "10 * 5 - 2 * 10"),
            ("5 * 6", 0.0, "5 * 6"),
            ("10 / (5 - 5)", 0.0, "10 / ( 5 - 5 )"),
            ("2 * ( 10 + 5", 0.0, ""),
            ("", 0.0, ""),
        ],
    )
    def test_plain(self, text: str, reward: float, answer: str) -> None:
        score = score_plain(text, [2, 5, 10], 30)
        assert (score.reward, score.correct) == (reward, reward == 1.0)
        assert "".join(score.answers[:1]) == answer

    @pytest.mark.parametrize(
        ("text", "reward", "answer"),
        [
            ("<think>so</think><answer>2*(10+5)</answer>", 1.0, "2 * ( 10 + 5 )"),
            ("<answer>1</answer> no: <answer>\n2*(10+5)\n</answer> done", 1.0, "2 * ( 10 + 5 )"),
            ("<answer>2*(10+5)</answer> no: <answer>1</answer>", 0.1, "1"),
            ("<answer>2*(10+5)</answer> and then <answer>2", 1.0, "2 * ( 10 + 5 )"),
            ("<answer><answer>2*(10+5)</answer>", 1.0, "2 * ( 10 + 5 )"),
            ("<answer>2*(10+5)=30</answer>", 0.1, ""),
            ("<answer>10+5+2</answer>", 0.1, "10 + 5 + 2"),
            ("<answer>10/(5-5)</answer>", 0.1, "10 / ( 5 - 5 )"),
            ("<answer></answer>", 0.1, ""),
            ("2*(10+5)", 0.0, ""),
            ("<answer>2*(10+5)", 0.0, ""),
            ("2*(10+5)</answer>", 0.0, ""),
            ("</answer>2*(10+5)<answer>", 0.0, ""),
            ("", 0.0, ""),
        ],
    )
    def test_tagged(self, text: str, reward: float, answer: str) -> None:
        score = score_tagged(text, [2, 5, 10], 30)
        assert (score.reward, score.correct) == (reward, reward == 1.0)
        assert "".join(score.answers[:1]) == answer

    def test_fractions_are_exact(self) -> None:
        assert score_plain("8 / ( 3 - 8 / 3 )", [3, 3, 8, 8], 24).correct
        assert not score_plain("99 - 1 / 98", [1, 98, 99], 99).correct

    def test_equal_numbers_are_used_as_often_as_given(self) -> None:
        assert score_plain("3 + 3", [3, 3], 6).correct
        assert not score_plain("3 * 2", [3, 3], 6).correct
        assert not score_plain("3 + 3", [3], 6).correct

    def test_answers_are_keys_under_every_equivalence(self) -> None:
        texts = ("1 + (2 + 3)", "1 + 2 + 3", "3 + 2 + 1", "3 + (2 + 1)")
        answers = [score_plain(text, [1, 2, 3], 6).answers for text in texts]
        assert CountdownTask.equivalences == ("written", "commutative", "associative")
        assert [len(set(keys)) for keys in zip(*answers, strict=True)] == [4, 2, 1]

    def test_no_expression_has_no_answer(self) -> None:
        assert score_plain("5 * 6 =", [5, 6], 30).answers == ()


class TestTask:
    def test_rows_are_the_same_in_every_process(self) -> None:
        code = (
            "from asyncds.tasks.registry import make_task; import sys;"
            "print(make_task('countdown', n_eval=100, seed=5).fingerprint(),"
            "sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        task = make_task("countdown", n_eval=100, seed=5)
        assert result.stdout.split() == [task.fingerprint(), "[]"]

    def test_fingerprint_differs_with_rows_and_prompts(self) -> None:
        variants = [
            {},
            {"seed": 1},
            {"n_eval": 64},
            {"n_validation": 9},
            {"n_train": 99},
            {"prompt_style": "chat"},
        ]
        variants += [{"equivalence": "associative"}]
        assert len({make_task("countdown", **v).fingerprint() for v in variants}) == len(variants)

    def test_splits(self) -> None:
        task = CountdownTask()
        train, held_out = task.rows("train"), task.rows("eval")
        assert (len(train), len(held_out)) == (2777, 128)
        assert [row.index for row in held_out] == list(range(128))
        assert held_out[-1] == held_out[127]
        with pytest.raises(IndexError):
            held_out[128]
        assert not {str(row.fields) for row in train} & {str(row.fields) for row in held_out}
        fewer = CountdownTask(n_train=10)
        assert list(fewer.rows("train")) == list(train[:10])
        assert list(fewer.rows("eval")) == list(held_out)

    @pytest.mark.parametrize("family", [{}, {"operands": 4, "max_number": 99, "n_train": 50}])
    def test_validation_is_held_out_beside_evaluation(self, family: dict[str, int]) -> None:
        without = CountdownTask(n_eval=40, **family)  # type: ignore[arg-type]
        task = CountdownTask(n_eval=40, n_validation=30, **family)  # type: ignore[arg-type]
        assert list(task.rows("eval")) == list(without.rows("eval"))
        assert len(task.rows("validation")) == 30
        rows = [row for split in ("train", "validation", "eval") for row in task.rows(split)]  # type: ignore[arg-type]
        assert len({str(row.fields) for row in rows}) == len(rows)
        assert len(without.rows("validation")) == 0

    @pytest.mark.parametrize("style", ["plain", "chat"])
    def test_every_enumerated_solution_is_worth_the_full_reward(self, style: str) -> None:
        task = CountdownTask(prompt_style=style)  # type: ignore[arg-type]
        for row in task.rows("eval"):
            found = solutions(tuple(row.fields["numbers"]), row.fields["target"])
            texts = [write(tree) for tree in found]
            if style == "chat":
                texts = [f"<think></think><answer>{text}</answer>" for text in texts]
            scores = [task.score(row, text) for text in texts]
            assert {(score.reward, score.correct) for score in scores} == {(1.0, True)}
            different = [len(set(keys)) for keys in zip(*(s.answers for s in scores), strict=True)]
            assert dict(zip(task.equivalences, different, strict=True)) == task.multiplicity(row)

    def test_a_large_family_is_sampled(self) -> None:
        task = CountdownTask(operands=4, max_number=99, max_target=100, n_train=50, n_eval=20)
        rows = [*task.rows("train"), *task.rows("eval")]
        assert len({str(row.fields) for row in rows}) == 70
        assert all(task.multiplicity(row) for row in rows[:5])
        longer = CountdownTask(operands=4, max_number=99, max_target=100, n_train=60, n_eval=20)
        assert list(longer.rows("eval")) == list(task.rows("eval"))

    def test_no_multiplicity_where_enumeration_takes_too_long(self) -> None:
        row = Row(0, {"numbers": [1, 2, 3, 4, 5, 6], "target": 21})
        assert CountdownTask().multiplicity(row) is None

    def test_prompts(self) -> None:
        row = Row(0, {"numbers": [2, 5, 10], "target": 30})
        assert CountdownTask().prompt(row) == "2 5 10 = 30 :"
        (message,) = CountdownTask(prompt_style="chat").prompt(row)
        assert message["role"] == "user"  # type: ignore[index]
        for word in ("2, 5, 10", "30", "<think>", "<answer>"):
            assert word in message["content"]  # type: ignore[index]

    def test_encoding_of_prompts(self) -> None:
        class Tokenizer:
            def encode(
                self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
            ) -> list[int]:
                assert not add_special_tokens
                return [len(text)]

            def apply_chat_template(
                self,
                conversation: object,
                *,
                add_generation_prompt: bool,
                return_dict: bool = True,
                tokenize: bool = True,
                **arguments: Any,
            ) -> list[int]:
                assert add_generation_prompt
                assert not return_dict
                return [len(json.dumps(conversation))]

        row = Row(0, {"numbers": [2, 5, 10], "target": 30})
        assert encode_prompt(CountdownTask(), row, Tokenizer()) == [13]
        assert encode_prompt(CountdownTask(prompt_style="chat"), row, Tokenizer())[0] > 100


class TestDataSet:
    """A local directory in the format of Jiayi-Pan/Countdown-Tasks-3to4."""

    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "countdown"
        folder.mkdir()
        rows = [{"target": 98, "nums": [44, 19, 35]}, {"target": 64, "nums": [63, 95, 96]}] * 5
        datasets.Dataset.from_list(rows).to_parquet(folder / "train-00000-of-00001.parquet")
        return str(folder)

    def test_rows(self, directory: str) -> None:
        task = CountdownTask(dataset=directory, n_eval=3, prompt_style="chat")
        assert (len(task.rows("train")), len(task.rows("eval"))) == (7, 3)
        row = task.rows("eval")[0]
        assert row == Row(0, {"numbers": [63, 95, 96], "target": 64})
        score = task.score(row, "<answer>96 + 63 - 95</answer>")
        assert (score.reward, score.answers[0]) == (1.0, "96 + 63 - 95")
        exist = task.multiplicity(row)
        assert exist is not None
        assert exist["written"] == len(written_by_hand((63, 95, 96), 64)) > 1

    def test_chosen_sizes(self, directory: str) -> None:
        task = CountdownTask(dataset=directory, n_train=4, n_eval=2)
        assert (len(task.rows("train")), len(task.rows("eval"))) == (4, 2)
        with pytest.raises(ValueError, match="10 rows"):
            CountdownTask(dataset=directory, n_train=9, n_eval=2).rows("train")

    def test_validation_follows_evaluation(self, directory: str) -> None:
        task = CountdownTask(dataset=directory, n_train=3, n_eval=2, n_validation=1)
        problems = [
            {"numbers": [44, 19, 35], "target": 98},
            {"numbers": [63, 95, 96], "target": 64},
        ]
        for split, first in (("train", 0), ("eval", 3), ("validation", 5)):
            assert task.rows(split)[0].fields == problems[first % 2]  # type: ignore[arg-type]
        assert [len(task.rows(s)) for s in ("train", "eval", "validation")] == [3, 2, 1]  # type: ignore[arg-type]
        rest = CountdownTask(dataset=directory, n_eval=2, n_validation=1)
        assert len(rest.rows("train")) == 7

    def test_only_problems_of_so_many_numbers(self, tmp_path: Path) -> None:
        rows = [{"target": 9, "nums": [1, 2, 3][: 2 + i % 2]} for i in range(10)]
        path = tmp_path / "mixed.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = CountdownTask(dataset=str(path), dataset_operands=3, n_eval=2)
        assert (len(task.rows("train")), len(task.rows("eval"))) == (3, 2)
        assert {len(row.fields["numbers"]) for row in task.rows("train")} == {3}
        with pytest.raises(ValueError, match="has 5 rows of 3 numbers, not enough"):
            CountdownTask(dataset=str(path), dataset_operands=3, n_eval=5).rows("train")

    def test_values_that_are_no_numbers_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "odd.jsonl"
        path.write_text('{"target": 9, "nums": [1, 2]}\n{"target": "9", "nums": [1, 2]}\n')
        with pytest.raises(ValueError, match=r"row 1 of .* must have whole numbers"):
            CountdownTask(dataset=str(path), n_eval=1).rows("train")

    def test_other_columns_are_refused(self, tmp_path: Path, directory: str) -> None:
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "train.jsonl").write_text('{"question": "?", "target": 1}\n')
        with pytest.raises(ValueError, match="no column nums"):
            CountdownTask(dataset=str(folder)).rows("train")


class TestRegistry:
    def test_unknown_kind(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'countdown'"):
            make_task("countdwon")
        with pytest.raises(ValueError, match="known are calculator, code, countdown"):
            make_task("zebra")

    def test_unknown_option(self) -> None:
        with pytest.raises(ValueError, match="max_numbers"):
            make_task("countdown", max_numbers=3)

    @pytest.mark.parametrize(
        "options", [{"operands": 1}, {"max_number": 0}, {"prompt_style": "poem"}]
    )
    def test_options_without_sense(self, options: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"operands|prompt_style"):
            make_task("countdown", **options)

    def test_import_path(self) -> None:
        task = make_task("asyncds.tasks.countdown.task:CountdownTask", n_eval=5)
        assert len(task.rows("eval")) == 5
        with pytest.raises(ValueError, match="can't be imported"):
            make_task("nowhere.at_all:Task")
        with pytest.raises(ValueError, match="can't be imported"):
            make_task("asyncds.tasks.countdown.task:Nothing")


def test_canonical_is_stable() -> None:
    """Answers lie in journals: a key must not change."""
    tree = next(solutions((1, 2, 3), 9))
    assert [canonical(tree, e) for e in ("written", "commutative", "associative")] == [
        "( 1 + 2 ) * 3",
        "((1+2)*3)",
        "((1+2)*3)",
    ]
