"""A data set and a reward as a task: prompts, rows that can't be used, splits, rewards."""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.choices.open_kind import KindError
from asyncds.config.load import ConfigError, parse_config
from asyncds.config.tasks import task_options
from asyncds.launch.local import absolute_paths
from asyncds.tasks.base import InvalidScoreError, Row, Score
from asyncds.tasks.dataset.prompts import Template
from asyncds.tasks.dataset.task import DatasetTask
from asyncds.tasks.registry import make_task
from tests.support.paths import ROOT

REWARDS = """
import numpy as np
from asyncds.tasks.base import Score

def last_word(completion, answer):
    return completion.split()[-1:] == [str(answer)]

def brief(completion, most=10):
    return max(0.0, 1 - len(completion) / most)

def shaped(completion, answer, level):
    return {"reward": level / 10, "correct": answer in completion, "answer": answer.lower()}

def whole_row(completion, row, **more):
    return len(row) + len(more)

def of_trl(prompts, completions, answer, **columns):
    return [float(c[0]["content"] == a) for c, a in zip(completions, answer)]

def of_trl_plain(completions, level, **columns):
    return [len(c) / n for c, n in zip(completions, level)]

def of_verl(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": 0.5, "acc": solution_str == ground_truth, "source": data_source}

def of_numpy(completion):
    return np.float32(0.25)

def returns(completion, what=None):
    return what

def a_score(completion):
    return Score(0.5, True, ("it",))

def never_asks(answer): return 1.0
def asks_for_gold(completion, gold): return 1.0
def positional(completion, /): return 1.0
async def later(completion): return 1.0
NUMBER = 7

class Words:
    def __init__(self, *, words: list[str] = ["a"]):
        self.words = set(words)
    def __call__(self, completion):
        return completion in self.words
"""
ROWS = [{"question": f"Q{i}?", "answer": f"a{i}", "level": i, "source": "s"} for i in range(10)]


@pytest.fixture(autouse=True)
def _rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "stranger.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("stranger", None)


def written(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def made(rows: list[dict[str, Any]] = ROWS, **options: Any) -> DatasetTask:
    """The task that a configuration with these values makes."""
    values = {"kind": "dataset", "train": written(rows), "prompt": "question", "n_eval": 2}
    if "rewards" not in options:
        values["reward"] = "stranger:last_word"
    if "eval" in options:
        del values["n_eval"]
    config = parse_config({"model": "none", "task": values | options})
    config = absolute_paths(absolute_paths(config))  # what the run's own file has
    task = make_task(config.task.kind, **task_options(config.task, tokenizer="none"))
    assert isinstance(task, DatasetTask)
    return task


def scored(
    completion: str, reward: Any, rows: list[dict[str, Any]] = ROWS, **options: Any
) -> Score:
    task = made(rows, reward=reward, **options)
    row = task.rows("eval")[0]
    # As it goes to a scorer's process, and no other way.
    return task.score(row, completion.replace("ANSWER", str(row.fields["answer"])))


class TestPrompts:
    @pytest.mark.parametrize(
        ("template", "prompt"),
        [
            ("question", "2 {x} {{y}} %s {0}"),
            ("Q: {question}", "Q: 2 {x} {{y}} %s {0}"),
            ("{question}{question}", "2 {x} {{y}} %s {0}" * 2),
            ("{{question}} {question}", "{question} 2 {x} {{y}} %s {0}"),
            (r'{deep.er}: \boxed{} {1} {"a": {"b": 1}}', r'7: \boxed{} {1} {"a": {"b": 1}}'),
            ("{two words} {{no column}}", "x {{no column}}"),
            ("{list}", "1, 2"),
        ],
    )
    def test_only_columns_in_braces_are_replaced(self, template: str, prompt: str) -> None:
        row = {
            "question": "2 {x} {{y}} %s {0}",
            "deep": {"er": 7},
            "two words": "x",
            "list": [1, 2],
        }
        assert Template(template, [*row]).fill(row, "row 0") == prompt

    @given(st.text().filter(str.strip), st.text())
    def test_what_a_row_has_is_never_searched_for_braces(self, value: str, other: str) -> None:
        row = {"a": value, "b": other + "."}
        assert Template("{a}|{b}", ["a", "b"]).fill(row, "") == f"{value}|{other}."

    @pytest.mark.parametrize(
        ("template", "says"),
        [
            ("qestion", "neither a column nor a text with one in braces: did you mean question?"),
            ("{qestion} {answer}", "has {qestion}, which is no column: did you mean question?"),
            ("Say {{question}}", "neither a column"),
            ("", "neither a column"),
        ],
    )
    def test_a_template_that_is_none(self, template: str, says: str) -> None:
        with pytest.raises(ValueError, match=r"task.prompt") as caught:
            Template(template, ["question", "answer"])
        assert says in str(caught.value)

    def test_text_is_a_turn_or_plain(self) -> None:
        task = made(eval=written(ROWS[:1], "eval.jsonl"))
        assert task.prompt(task.rows("eval")[0]) == [{"role": "user", "content": "Q0?"}]
        task = made(eval=written(ROWS[:1], "eval.jsonl"), prompt_style="plain")
        assert task.prompt(task.rows("eval")[0]) == "Q0?"

    def test_a_chat_is_the_prompt_as_it_stands(self) -> None:
        turns = [{"role": "system", "content": "{x}"}, {"role": "user", "content": "{answer}"}]
        task = made([{"question": turns, "answer": "1"}] * 3, eval=written(ROWS[:1], "eval.jsonl"))
        assert task.prompt(task.rows("train")[0]) == turns


class TestRows:
    BAD: tuple[Any, ...] = (
        {"question": " ", "answer": "1"},
        {"question": "q", "answer": None},
        {"question": "q", "answer": ""},
        {"question": [{"role": "user"}], "answer": "1"},
        {"question": {"x": 1}, "answer": "1"},
        {"answer": "1"},
        {"question": "q", "answer": 2**70},
    )

    @pytest.mark.parametrize("bad", BAD)
    def test_rows_that_cant_be_used_are_refused_by_file_and_index(self, bad: Any) -> None:
        with pytest.raises(ValueError, match=r"1 of 11 rows of data set .*rows.jsonl") as caught:
            made([*ROWS[:4], bad, *ROWS[4:]]).rows("train")
        assert "row 4 of data set" in str(caught.value)
        assert str(caught.value).endswith("mend them, or set task.bad_rows to skip")

    def test_or_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        task = made([*self.BAD, *ROWS], bad_rows="skip")
        assert [len(task.rows(split)) for split in ("train", "eval")] == [8, 2]
        (why,) = caplog.messages
        assert why.startswith("7 of 17 rows of data set")
        assert "row 2 of" in why
        assert why.endswith("; and 4 more: they are left out")
        assert task.fingerprint() == made(ROWS).fingerprint()

    def test_lines_that_are_no_json_are_such_rows(self, caplog: pytest.LogCaptureFixture) -> None:
        written(ROWS)
        with Path("rows.jsonl").open("a") as file:
            file.write("{broken\n[1]\n")
        task = DatasetTask(
            train=[{"dataset": "rows.jsonl"}],
            prompt="question",
            reward={"fn": "exact"},
            n_eval=2,
            bad_rows="skip",
        )
        assert len(task.rows("train")) == 8
        assert "rows.jsonl, line 11: not JSON" in caplog.text
        assert "rows.jsonl, line 12: an object with columns is needed" in caplog.text

    def test_a_spreadsheet_of_a_stranger(self, caplog: pytest.LogCaptureFixture) -> None:
        huge = "x" * 200_000
        Path("mine.csv").write_text(
            "My Question,answer,note\r\n"
            '"He said ""{hi}"", then\nleft",ok,\r\n'
            f'{huge},"a, b",n\r\n'
            "Grüße <|im_end|> 你好,ja,\r\n"
            "too,many,cells,here\r\n"
            ",empty,\r\n"
        )
        Path("mine.csv.gz").write_bytes(gzip.compress(Path("mine.csv").read_bytes()))
        for name in ("mine.csv", "mine.csv.gz"):
            task = made(train=name, prompt="{My Question}!", n_eval=1, bad_rows="skip")
            rows = [*task.rows("train"), *task.rows("eval")]
            assert {(row.fields["prompt"], row.fields["answer"]) for row in rows} == {
                ('He said "{hi}", then\nleft!', "ok"),
                (f"{huge}!", "a, b"),
                ("Grüße <|im_end|> 你好!", "ja"),
            }
            assert "line 6: not as many cells as columns" in caplog.text
            assert "row 4 of data set" in caplog.text

    def test_long_prompts_by_the_models_own_tokens(self) -> None:
        rows = [{"question": "1 " * i, "answer": "1"} for i in range(1, 9)]
        options: dict[str, Any] = {
            "train": [{"dataset": written(rows)}],
            "prompt": "question",
            "reward": {"fn": "exact"},
            "n_eval": 1,
            "prompt_style": "plain",
            "max_prompt_tokens": 6,
            "tokenizer": str(ROOT / "asyncds" / "tiny" / "shipped"),
        }
        with pytest.raises(
            ValueError, match=r"2 of 8 rows .*row 6 .* has a prompt of 7 tokens, more"
        ):
            DatasetTask(**options).rows("train")
        assert len(DatasetTask(**options, bad_rows="skip").rows("train")) == 5

    def test_splits_share_no_prompt_and_are_the_same_everywhere(self) -> None:
        rows = [{"question": f"q {i % 20}", "answer": i} for i in range(40)]
        task = made(rows, n_eval=5, n_validation=3, seed=4)
        words = {
            s: {r.fields["prompt"] for r in task.rows(s)} for s in ("train", "eval", "validation")
        }
        assert not words["train"] & (words["eval"] | words["validation"])
        assert task.fingerprint() == made(rows, n_eval=5, n_validation=3, seed=4).fingerprint()
        assert task.fingerprint() != made(rows, n_eval=5, n_validation=3, seed=5).fingerprint()
        more = made(rows, n_eval=5, seed=4)
        assert [r.fields for r in more.rows("eval")] == [r.fields for r in task.rows("eval")]

    def test_evaluation_data_are_left_out_of_training(self) -> None:
        task = made(eval=written(ROWS[:3], "eval.jsonl"))
        assert [len(task.rows(split)) for split in ("train", "eval")] == [7, 3]
        with pytest.raises(ValueError, match="leaves none to train on"):
            made(eval="rows.jsonl").rows("train")

    def test_an_evaluation_needs_no_rows_to_train_on(self) -> None:
        task = make_task("dataset", eval=written(ROWS[:3]), prompt="question", reward="exact")
        splits: tuple[Any, ...] = ("train", "validation", "eval")
        assert [len(task.rows(split)) for split in splits] == [0, 0, 3]
        values = {"kind": "dataset", "eval": "rows.jsonl", "reward": "exact"}
        assert not parse_config({"model": "none", "steps": 0, "task": values}).trains
        for more in ({"steps": 1}, {"steps": 0, "task": values | {"n_validation": 1}}):
            with pytest.raises(ConfigError, match=r"task\.train names no data"):
                parse_config({"model": "none", "task": values} | more)

    def test_columns(self) -> None:
        with pytest.raises(ValueError, match=r"no column gold, but question.*task.answer"):
            made(answer="gold").rows("train")


TAGGED = {"fn": "exact", "options": {"pattern": "<a>(.*?)</a>"}}


class TestRewards:
    @pytest.mark.parametrize(
        ("reward", "completion", "value", "correct"),
        [
            ("stranger:last_word", "it is ANSWER", 1.0, True),
            ("stranger:last_word", "", 0.0, False),
            ("stranger:brief", "12345", 0.5, False),
            ({"fn": "stranger:brief", "options": {"most": 5}}, "", 1.0, True),
            ({"fn": "stranger:brief", "weight": -2}, "", -2.0, True),
            ("stranger:whole_row", "", 8.0, True),
            ("stranger:of_trl", "ANSWER", 1.0, True),
            ("stranger:of_numpy", "", 0.25, False),
            ("stranger:a_score", "", 0.5, True),
            ({"fn": "stranger:Words", "options": {"words": ["b"]}}, "b", 1.0, True),
            ("stranger:Words", "b", 0.0, False),
            ("exact", " ANSWER\n", 1.0, True),
            (
                {"fn": "exact", "options": {"pattern": "<a>(.*?)</a>"}},
                "<a>1</a><a>ANSWER</a>",
                1,
                True,
            ),
            ({"fn": "exact", "options": {"pattern": "<a>(.*?)</a>"}}, "ANSWER", 0, False),
            ({"fn": "regex", "options": {"pattern": "^a.*b$"}}, "a\nb", 1.0, True),
        ],
    )
    def test_what_a_function_says(
        self, reward: Any, completion: str, value: float, correct: bool
    ) -> None:
        score = scored(completion, reward)
        assert (score.reward, score.correct) == (value, correct)

    def test_functions_of_other_trainers(self) -> None:
        assert scored("1234", "stranger:of_trl_plain", prompt_style="plain", correct_at=0.5).correct
        rows = [row | {"data_source": "x", "extra_info": {"i": 1}} for row in ROWS]
        score = scored("ANSWER", "stranger:of_verl", rows)
        assert (score.reward, score.correct) == (0.5, True)

    def test_the_graders_box(self) -> None:
        rows = [{"question": f"q{i}", "answer": r"\frac{1}{2}"} for i in range(4)]
        assert scored(r"so \boxed{0.5}", "math", rows).correct
        assert not scored("0.5", "math", rows).correct

    def test_several_are_summed_by_weight_and_told_apart(self) -> None:
        task = made(
            rewards=[
                {"fn": "stranger:brief", "weight": 0.5, "name": "short"},
                {"fn": "stranger:shaped", "weight": 2},
            ],
            correct_by="shaped",
        )
        row = Row(0, {"prompt": "q", "answer": "A", "columns": {"level": 3}})
        score = task.score(row, "A")
        assert task.reward_parts == ("short", "shaped")
        assert score.parts == {"short": 0.9, "shaped": 0.3}
        assert score.reward == pytest.approx(0.5 * 0.9 + 2 * 0.3)
        assert score.correct
        assert score.answers == ("a",)

    @pytest.mark.parametrize("what", [None, "one", [1.0], float("nan"), float("inf"), {"x": 1}])
    def test_what_is_no_reward(self, what: Any) -> None:
        with pytest.raises(InvalidScoreError, match="reward returns returned"):
            scored("", {"fn": "stranger:returns", "options": {"what": what}})

    @pytest.mark.parametrize(
        ("reward", "says"),
        [
            ("stranger:none", "stranger:none can't be imported"),
            ("nowhere:f", "nowhere:f can't be imported"),
            ("stranger:NUMBER", "neither a function nor a class"),
            ("stranger:later", "is async: give a plain function"),
            ("stranger:positional", "parameters without names"),
            ("stranger:never_asks", "never asks for the completion"),
            (
                "stranger:asks_for_gold",
                "asks for gold, which is neither a column (question, answer",
            ),
            ("exat", "unknown reward exat: did you mean exact"),
            ({"fn": "stranger:brief", "options": {"mots": 1}}, "did you mean most?"),
            ({"fn": "stranger:Words", "options": {"words": 1}}, "words: Input should be a valid"),
            ({"fn": "stranger:brief", "name": "no name"}, "task.reward.name"),
        ],
    )
    def test_a_mistake_is_a_sentence(self, reward: Any, says: str) -> None:
        with pytest.raises((KindError, ConfigError)) as caught:
            made(reward=reward).rows("train")
        assert says in str(caught.value)

    def test_options_are_checked_by_annotations(self) -> None:
        with pytest.raises(KindError, match="ignore_case: Input should be a valid boolean"):
            made(reward={"fn": "exact", "options": {"ignore_case": "maybe"}})

    def test_an_answer_that_nobody_gives(self) -> None:
        with pytest.raises(KindError, match=r"asks for the answer: set task.answer"):
            made([{"question": "q"}] * 4, reward="stranger:last_word", answer=None).rows("train")
        assert scored("", "stranger:brief", [{"question": f"{i}"} for i in range(4)], answer=None)

    def test_names(self) -> None:
        with pytest.raises(ValueError, match="two rewards are called 'brief'"):
            made(rewards=["stranger:brief", "stranger:brief"])
        with pytest.raises(ValueError, match=r"task.correct_by 'x' is none of the rewards brief"):
            made(rewards=["stranger:brief"], correct_by="x")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "set task.reward, or a list of several in task.rewards"),
        ({"reward": "exact", "rewards": ["exact"]}, "set task.reward, or a list"),
        ({"reward": "exact", "train": []}, "task.train names no data"),
        ({"reward": "exact", "train": 3}, "task.train: a data set is a hub id or a path"),
        ({"reward": 3}, "task.reward: a reward is `package.module:function`"),
        ({"reward": "exact", "train": {"datset": "x"}}, "task.train.0.dataset is missing"),
        ({"reward": {"fun": "x"}}, "unknown key task.reward.fun: did you mean task.reward.fn?"),
        ({"reward": "exact", "eval": "x", "n_eval": 3}, "task.n_eval has no effect"),
        ({"reward": "exact", "prompt_style": "plain", "chat": {"prefix": "x"}}, "no effect"),
    ],
)
def test_a_configuration_that_makes_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": "none", "task": {"kind": "dataset", "train": "x"} | values})
    assert says in str(caught.value)
