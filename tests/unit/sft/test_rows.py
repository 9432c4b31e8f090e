"""Rows as prompts and answers in tokens, and batches of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from asyncds.config.load import ConfigError, parse_as
from asyncds.config.sft import SftConfig
from asyncds.engine.micro_batches import ShardIndex
from asyncds.sft.batches import answer_loss, rows_of, shard, steps_of
from asyncds.sft.rows import Example, Rows, read_rows
from asyncds.tiny.recipe import SHIPPED

PLAIN = {"prompt": "{numbers} = {target} :", "completion": "answer", "prompt_style": "plain"}
ROWS = [{"numbers": f"{a} 2", "target": a + 2, "answer": f"{a} + 2"} for a in range(1, 9)]
# Roles as numbers, so that the tiny vocabulary has them.
TEMPLATE = (
    "{% for m in messages %}{{ '1' if m.role == 'user' else '2' }} : {{ m.content }} = "
    "{% endfor %}2 :"
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configured(rows: list[Any] = ROWS, **data: Any) -> SftConfig:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model": "m", "batches": {"size": 2}, "data": {"train": "rows.jsonl", **data}}
    return parse_as(SftConfig, values)


def read(rows: list[Any] = ROWS, *, longest: int | None = None, **data: Any) -> Rows:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    return read_rows(configured(rows, **data), tokenizer, longest=longest)


def texts(example: Example) -> tuple[str, str]:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    return tokenizer.decode(example.prompt), tokenizer.decode(example.answer)


def test_an_answer_ends_with_the_end_of_a_sequence() -> None:
    rows = read(**PLAIN)
    assert [texts(e) for e in rows.train[:2]] == [
        ("1 2 = 3 :", "1 + 2 <eos>"),
        ("2 2 = 4 :", "2 + 2 <eos>"),
    ]
    assert rows.eval == []


def test_every_answer_of_a_chat_is_one_to_what_is_before_it() -> None:
    chat = [
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
        {"role": "assistant", "content": "6"},
    ]
    found = read([{"chat": chat}], messages="chat", chat={"template": TEMPLATE}).train
    assert [texts(e) for e in found] == [
        ("1 : 3 = 2 :", "4 <eos>"),
        ("1 : 3 = 2 : 4 = 1 : 5 = 2 :", "6 <eos>"),
    ]


def test_a_prompt_may_be_a_turn_of_a_chat() -> None:
    rows = [{"prompt": "3", "completion": "4"}] * 2
    assert texts(read(rows, chat={"template": TEMPLATE}).train[0]) == ("1 : 3 = 2 :", "4 <eos>")


@pytest.mark.parametrize(
    ("row", "data", "message"),
    [
        ({"numbers": "1 2", "target": 3, "answer": " "}, PLAIN, "row 8 .* has no answer"),
        ({"numbers": "", "target": 3, "answer": "1"}, PLAIN, "row 8 .* has no text in numbers"),
        ({"chat": "x"}, {"messages": "chat"}, "row 8 .* has no chat"),
        ({"chat": [{"role": "user", "content": "1"}]}, {"messages": "chat"}, "without an answer"),
        ("[1]", PLAIN, "line 9: an object with columns is needed"),
    ],
)
def test_rows_that_can_not_be_used_are_named_and_refused_or_skipped(
    row: Any, data: dict[str, Any], message: str
) -> None:
    good: list[Any] = ROWS
    if "messages" in data:
        turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
        good, data = [{"chat": turns}] * 8, {**data, "chat": {"template": TEMPLATE}}
    with pytest.raises(ValueError, match=f"1 of 9 rows .*{message}.*set data.bad_rows to skip"):
        read([*good, row], **data)
    assert len(read([*good, row], **data, bad_rows="skip").train) == 8


def test_what_is_too_long_is_a_bad_row() -> None:
    with pytest.raises(ValueError, match="has 9 tokens, more than 8"):
        read(**PLAIN, longest=8)
    with pytest.raises(ValueError, match="has 9 tokens, more than 7"):
        read(**PLAIN, longest=8, max_tokens=7)


def test_held_out_rows_are_not_trained_on() -> None:
    rows = read(**PLAIN, n_eval=3)
    seen = [texts(e) for e in (*rows.train, *rows.eval)]
    assert (len(rows.train), len(rows.eval), len(set(seen))) == (5, 3, 8)
    with pytest.raises(ValueError, match=r"data\.n_eval 8 leaves none of 8 rows"):
        read(**PLAIN, n_eval=8)
    with pytest.raises(ValueError, match="1 rows are fewer than a batch"):
        read(ROWS[:1], **PLAIN)
    with pytest.raises(ValueError, match="no column gone, but numbers"):
        read(**PLAIN | {"completion": "gone"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"train": []}}, "data.train names no data"),
        ({"data": {"train": "x", "eval": "y", "n_eval": 2}}, "data.n_eval has no effect"),
        ({"data": {"train": "x", "prompt_style": "plain", "messages": "m"}}, "have no effect"),
        ({"data": {"train": "x", "complete": "m"}}, "unknown key data.complete: did you mean"),
        (
            {"data": {"train": "x"}, "batches": {"size": 1}, "learner": {"ranks": 2}},
            "too few for 2",
        ),
        ({"data": {"train": "x"}, "learner": {"zero_stage": 0}}, "keeps no float32 copy"),
    ],
)
def test_what_the_configuration_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_as(SftConfig, {"model": "m", **values})


@given(st.integers(1, 20), st.data(), st.integers(0, 5))
def test_every_row_comes_once_before_any_comes_again(n: int, data: Any, seed: int) -> None:
    size = data.draw(st.integers(1, n))
    steps = 3 * n
    drawn = [row for step in range(steps) for row in rows_of(step, n, size=size, seed=seed)]
    assert len(drawn) == steps * size
    for start in range(0, len(drawn), n):
        epoch = drawn[start : start + n]
        assert max(Counter(epoch).values()) == 1
    assert steps_of(n, size=size, epochs=3) * size <= 3 * n


def test_a_shard_has_its_ranks_answers_and_the_loss_is_theirs() -> None:
    def example(prompt: int, answer: int) -> Example:
        return Example(
            prompt=np.arange(prompt, dtype=np.int32), answer=np.arange(answer, dtype=np.int32)
        )

    examples = [example(3, 2), example(5, 4), example(1, 6)]
    shards = [shard(examples, step=0, rank=rank, ranks=2) for rank in (0, 1)]
    assert sorted(i for one in shards for i in one.sequences.tolist()) == [0, 1, 2]
    for one in shards:
        index = ShardIndex(one)
        for i in one.sequences:
            batch = index.assemble([np.array([i], dtype=np.int32)])
            assert batch.targets.tolist() == examples[i].answer.tolist()
    loss, sums = answer_loss(log_probs=torch.tensor([-1.0, -3.0]))
    assert (loss.item(), sums.means()) == (4.0, {"answer": 2.0})
