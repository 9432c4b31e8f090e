"""YAML: numbers are numbers, text is text, and what can't be meant is told with its line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from asyncds.config.load import ConfigError, load_config
from asyncds.config.reading import UnreadableError, parse_yaml, read_yaml, write_yaml
from asyncds.config.sweep import load_sweep

SCALARS = {
    "1e-4": 1e-4,
    "1E5": 1e5,
    "-2.5e+3": -2500.0,
    "3": 3,
    "1_000": 1000,
    "0x10": 16,
    ".5": 0.5,
    "-.inf": float("-inf"),
    "'2024'": "2024",
    '"1e5"': "1e5",
    "0123456": "0123456",
    "1:30": "1:30",
    "2024-03-01": "2024-03-01",
    "1.2.3": "1.2.3",
    "1e": "1e",
    "yes": True,
    "null": None,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_are_what_people_mean(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN | st.sampled_from([*SCALARS, "\x85", "a\u2028b", "\ufeff"]))
def test_what_is_written_reads_back_the_same_here_and_elsewhere(value: Any) -> None:
    assert parse_yaml(write_yaml(value)) == value
    assert yaml.safe_load(write_yaml(value)) == value


TWICE = [
    ("learner: {lr: 1}\nsteps: 2\nlearner: {ranks: 1}\n", "learner is there twice (lines 1 and 3)"),
    ("learner:\n  lr: 1\n  lr: 2\n", "lr is there twice (lines 2 and 3)"),
    ("{a: 1, a: 1}", "a is there twice (line 1)"),
    ("- {b: 1, 'b': 1}", "b is there twice (line 1)"),
    ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2\n", "b is there twice (lines 4 and 5)"),
]


@pytest.mark.parametrize(("text", "sentence"), TWICE)
def test_a_key_that_is_there_twice_is_told_with_its_lines(text: str, sentence: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse_yaml(text)
    assert sentence in str(caught.value)


def test_a_key_of_a_merged_mapping_may_be_set_anew() -> None:
    assert parse_yaml("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n")["y"] == {"a": 2}


BILLION = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    "content",
    [
        "label: \u00e9t\u00e9".encode("latin-1"),
        "label: x".encode("utf-16"),
        b"label: \x00",
        b"a: [",
        b"a:\n\tb: 1",
        b"a: &a {b: *a}",
        b"[" * 5000,
        BILLION.encode(),
        b"a: !!python/object/apply:os.system [ls]",
        b"{a: b}: 1",
        b"a: !!int x",
    ],
)
def test_files_that_are_no_yaml_get_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"run\.yaml is not"):
        read_yaml(file)
    for load in (load_config, load_sweep):
        with pytest.raises(ConfigError, match=r"run\.yaml is not"):
            load(file)


def test_text_fields_keep_text_that_looks_like_a_number(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: m\nname: '2024'\nlabel: '1e5'\nlearner: {lr: 1e-4, warmup_steps: 1e1}\n"
        "task: {kind: 'm:T', options: {day: 2024-03-01, code: '007', other: 007, rate: 1e-3}}\n"
    )
    config = load_config(file, ["generator.engine_args={revision: '0123456'}"])
    assert (config.name, config.label) == ("2024", "1e5")
    assert (config.learner.lr, config.learner.warmup_steps) == (1e-4, 10)
    assert config.generator.engine_args == {"revision": "0123456"}
    options = {"day": "2024-03-01", "code": "007", "other": "007", "rate": 1e-3}
    assert config.task.options == options  # type: ignore[union-attr]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\xef\xbb\xbfmodel: m\n")
    assert load_config(file).model == "m"
