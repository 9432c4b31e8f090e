"""Rows of data sets: formats, values as they are written, and errors that name what is to blame."""

import bz2
import gzip
import json
import lzma
import os
import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.tasks import data
from asyncds.tasks.math.dataset import (
    Source,
    final_answer,
    is_hopeless,
    load_problems,
)
from asyncds.tasks.math.task import INSTRUCTION, MathTask

ROWS = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": "4"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def answers(path: str, **options: Any) -> list[str]:
    return [problem.answer for problem in load_problems(Source(dataset=path, **options))]


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("x.jsonl", LINES),
            ("x.ndjson", LINES.rstrip("\n")),
            ("x.jsonl", "\n" + LINES.replace("\n", "\r\n") + "\n"),
            ("x.jsonl", "\ufeff" + LINES),
            ("x.json", json.dumps(ROWS, indent=1)),
            ("x.json", LINES),
            ("x.csv", 'problem,answer\n1 + 1?,2\n"2 + 2?",4\n'),
            ("x.tsv", "problem\tanswer\n1 + 1?\t2\n2 + 2?\t4\n"),
            ("X.JSONL", LINES),
            ("x.v2.jsonl", LINES),
        ],
    )
    def test_text(self, name: str, content: str, tmp_path: Path) -> None:
        assert answers(written(tmp_path / name, content)) == ["2", "4"]

    @pytest.mark.parametrize(
        ("suffix", "compress"),
        [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
    )
    def test_compressed(
        self, suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
    ) -> None:
        path = written(tmp_path / f"x.jsonl{suffix}", compress(LINES.encode()))
        assert answers(path) == ["2", "4"]

    def test_zstd_and_parquet(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        with pyarrow.CompressedOutputStream(str(tmp_path / "x.csv.zst"), "zstd") as stream:
            stream.write(b"problem,answer\n1 + 1?,2\n2 + 2?,4\n")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
        assert answers(str(tmp_path / "x.csv.zst")) == answers(str(tmp_path / "x.parquet"))

    def test_a_directory_of_files(self, tmp_path: Path) -> None:
        first, second = LINES.splitlines(keepends=True)
        (tmp_path / "data").mkdir()
        written(tmp_path / "data" / "train-0.jsonl", first)
        written(tmp_path / "data" / "train-1.jsonl", second)
        written(tmp_path / "data" / "test.jsonl", first)
        assert answers(str(tmp_path)) == ["2", "4"]
        assert answers(str(tmp_path), split="test") == ["2"]

    def test_home_and_relative_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written(tmp_path / "x.jsonl", LINES)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert answers("~/x.jsonl") == ["2", "4"]
        monkeypatch.chdir(tmp_path)
        assert answers("x.jsonl") == answers("./x.jsonl") == ["2", "4"]


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("x.jsonl", LINES + '{"problem": "3', "x.jsonl, line 3: not JSON: Unterminated string"),
            ("x.jsonl", '{"problem": "?"}\n7\n', "line 2: an object with columns is needed"),
            ("x.json", '[{"problem": "?"},\n{"a"', "x.json, line 2: not JSON"),
            ("x.json", "[1]", "row 0: an object with columns is needed"),
            ("x.jsonl", "[" * 200_000, "line 1: not JSON that can be read: nested too deep"),
            ("x.csv", "problem,answer\n1,2,3\n", "line 2: not as many cells as columns"),
            ("x.csv", 'problem,answer\n1,"2', "x.csv, line 2: not CSV: unexpected end of data"),
            ("x.jsonl", "", "has no rows"),
            ("x.jsonl", "\n\n", "has no rows"),
            ("x.csv", "problem,answer\n", "has no rows"),
            ("x.jsonl", b'{"problem": "\xe9"}', "x.jsonl is not UTF-8 at byte 13"),
            ("x.jsonl.gz", b"no gzip", "x.jsonl.gz can't be read"),
            ("x.parquet", b"no parquet", "x.parquet can't be read"),
            ("x.txt", "1", "x.txt has an unknown format: known are .jsonl"),
        ],
    )
    def test_files(self, name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
        path = written(tmp_path / name, content)
        with pytest.raises(ValueError, match=re.escape(says)) as caught:
            answers(path)
        assert "\n" not in str(caught.value)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        written(tmp_path / "train.jsonl", LINES)
        with pytest.raises(ValueError, match=r"is not there: did you mean .*train\.jsonl\?"):
            answers(str(tmp_path / "trian.jsonl"))
        assert data.missing("nowhere/at/all.jsonl").endswith("give a file, or a hub id")
        assert data.missing("mine.jsonl")
        assert data.missing("someone/something") == ""

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
    def test_no_permission(self, tmp_path: Path) -> None:
        path = written(tmp_path / "x.jsonl", LINES)
        Path(path).chmod(0)
        with pytest.raises(ValueError, match="can't be read"):
            answers(path)

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ('{"value": "5"}', "in answer, text, a number or a list of these is needed, not dict"),
            ("NaN", "in answer, NaN is not a number"),
            ("-Infinity", "is not a number"),
            ('[{"a": 1}]', "not dict"),
            ("null", "row 1 of data set .* has no text in answer"),
            ('" "', "has no text in answer"),
            ("[]", "has no text in answer"),
        ],
    )
    def test_values(self, value: str, says: str, tmp_path: Path) -> None:
        first = '{"problem": "?", "answer": 1}\n'
        path = written(tmp_path / "x.jsonl", first + f'{{"problem": "!", "answer": {value}}}\n')
        with pytest.raises(ValueError, match=says) as caught:
            answers(path)
        assert "row 1 of data set" in str(caught.value)

    def test_bytes(self) -> None:
        with pytest.raises(ValueError, match="not bytes"):
            data.text(b"5")


class TestValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("2024-03-01", "2024-03-01"),
            ("2024-03-01T00:00:00", "2024-03-01T00:00:00"),
            ("5e-05", "5e-05"),
            ("007", "007"),
        ],
    )
    def test_text_stays_text(self, value: str, text: str, tmp_path: Path) -> None:
        path = written(tmp_path / "x.jsonl", json.dumps({"problem": "?", "answer": value}))
        assert answers(path) == [text]

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            ("0.00005", "0.00005"),
            ("1e16", "10000000000000000"),
            ("9223372036854775809", "9223372036854775809"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1234567890123456789", "0.1234567890123456789"),
            ("72.0", "72.0"),
            ("-3", "-3"),
            ("[1, 2.50]", "1, 2.50"),
            ("true", "True"),
        ],
    )
    def test_numbers_are_exact(self, number: str, text: str, tmp_path: Path) -> None:
        path = written(tmp_path / "x.jsonl", f'{{"problem": "?", "answer": {number}}}')
        assert answers(path) == [text]

    def test_values_of_parquet_and_the_hub(self) -> None:
        assert data.text(0.00005) == "0.00005"
        assert data.text(1e16) == "10000000000000000"
        assert data.text(date(2024, 3, 1)) == data.text(datetime(2024, 3, 1)) == "2024-03-01"

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats_are_read_back(self, value: float) -> None:
        assert float(data.text(value)) == value
        assert "e" not in data.text(value)


class TestReferences:
    @pytest.mark.parametrize(
        ("answer", "final"),
        [
            ("2+3 = <<2+3=5>>5\n#### 5", "5"),
            ("Half of it.\n#### 1,234", "1,234"),
            ("The answer is 72.", "72"),
            ("First 2. Then 3. So the final answer is $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
            ("Answer: 12", "12"),
            ("(B) 12", "(B) 12"),
            ("72", "72"),
            (r"so it is \boxed{6}", r"so it is \boxed{6}"),
        ],
    )
    def test_the_final_answer_of_a_solution(self, answer: str, final: str) -> None:
        assert final_answer(answer) == final

    def test_a_solution_without_a_final_answer_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        prose = "We add the numbers one by one, and see that nothing can be said about them at all"
        rows = [*ROWS, {"problem": "?", "answer": prose}]
        path = written(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        load_problems(Source(dataset=path))
        assert "1 of 3 answers" in caplog.text
        assert "first row 2: 'We add" in caplog.text
        caplog.clear()
        load_problems(Source(dataset=path, n=2))
        assert not caplog.text

    def test_what_is_a_final_answer(self) -> None:
        assert is_hopeless("5" * 1001)
        assert not is_hopeless(r"x = 1 \text{ or } x = 2")
        assert not is_hopeless("\\boxed{5} " + "and some more words " * 10)


class TestChats:
    CHAT: ClassVar[list[dict[str, str]]] = [{"role": "user", "content": "How many is 8 and 10?"}]

    def test_the_prompt_is_the_chat(self, tmp_path: Path) -> None:
        rows = [{"prompt": self.CHAT, "answer": 18}, {"prompt": "1 + 1?", "answer": 2}]
        path = written(tmp_path / "x.json", json.dumps(rows))
        held_out = written(tmp_path / "y.jsonl", LINES)
        train = [{"dataset": path, "problem_field": "prompt"}]
        task = MathTask(train=train, eval=[{"dataset": held_out, "n": 1}])
        # The second problem is in the evaluation split, so that nothing else is left.
        (row,) = [r for r in task.rows("train") if "chat" in r.fields]
        assert task.prompt(row) == self.CHAT
        assert row.fields["problem"] == "How many is 8 and 10?"
        assert task.prompt(task.rows("eval")[0]) == [
            {"role": "user", "content": f"1 + 1?\n\n{INSTRUCTION}"}
        ]

    @pytest.mark.parametrize(
        ("chat", "says"),
        [
            ([{"role": "user"}], "a turn without the texts role and content"),
            ([{"role": "user", "content": None}], "a turn without"),
            ([*CHAT, {"role": "assistant", "content": "18"}], "ends with an answer"),
        ],
    )
    def test_chats_that_are_none(self, chat: Any, says: str, tmp_path: Path) -> None:
        path = written(tmp_path / "x.json", json.dumps([{"problem": chat, "answer": 18}]))
        with pytest.raises(ValueError, match=says):
            answers(path)


def test_training_on_nothing_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", LINES)
    task = MathTask(train=[{"dataset": path}], eval=[{"dataset": path}])
    with pytest.raises(ValueError, match=r"every problem of task\.train is in task\.eval too"):
        task.rows("train")
