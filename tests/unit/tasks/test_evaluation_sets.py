"""The evaluation sets of a task: their names, and that they are all of its rows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.tasks.base import Row, Score, Split, Task, evaluation_sets
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.source import Source, set_names


class Parts(Task):
    """Three rows in parts that a test names."""

    name = "parts"
    equivalences = ("written",)
    equivalence = "written"

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def rows(self, split: Split) -> list[Row]:
        return [Row(i, {}) for i in range(3)]

    def prompt(self, row: Row) -> str:
        return "?"

    def score(self, row: Row, completion: str) -> Score:
        return Score(0.0, False)

    def sets(self, split: Split) -> Any:
        return self._parts


def test_a_task_names_its_sets() -> None:
    assert evaluation_sets(Parts([("AIME-24", 1), ("b.c_d", 2)]), "eval") == [
        ("AIME-24", 1),
        ("b.c_d", 2),
    ]
    assert evaluation_sets(CountdownTask(), "eval") == []
    assert Parts([("a", 3)]).fingerprint() != Parts([("b", 3)]).fingerprint()


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([("a", 2)], "names sets of 2 rows, and the split 'eval' has 3: name every row's set"),
        ([("a/b", 3)], "matching regex"),
        ([("", 3)], "matching regex"),
        ([("a", 4), ("b", -1)], ">= 0"),
        ([("a", "3")], "Expected `int`"),
        ([("a", 0)] * 64 + [("b", 3)], "length <= 64"),
    ],
)
def test_what_can_be_no_set_is_told(parts: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as told:
        evaluation_sets(Parts(parts), "eval")
    assert str(told.value).startswith("sets() of task 'parts'")


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("HuggingFaceH4/MATH-500", "MATH-500"),
        ("Qwen/Qwen2.5-Math", "Qwen2.5-Math"),
        ("~/data/my set.jsonl.gz", "my-set"),
        ("data/aime.json", "aime"),
        ("data/数学.csv", "set"),
        ("dir/", "dir"),
    ],
)
def test_names_come_from_the_data_sets(dataset: str, name: str) -> None:
    assert set_names([Source(dataset=dataset)]) == [name]


sources = st.builds(
    Source,
    dataset=st.sampled_from(["a/x", "b/x", "c/x.csv", "y" * 60, "ü"]),
    subset=st.sampled_from([None, "deep", "a/b"]),
    split=st.sampled_from(["train", "test"]),
    name=st.sampled_from([None, None, "x", "mine"]),
)


@given(st.lists(sources, max_size=8))
def test_names_differ_unless_a_person_gave_the_same(some: list[Source]) -> None:
    names = set_names(some)
    assert all(s.name in (None, name) for s, name in zip(some, names, strict=True))
    own = [name for s, name in zip(some, names, strict=True) if s.name is None]
    assert len(set(own)) == len(own)
    assert not set(own) & {s.name for s in some}
    assert evaluation_sets(Parts([(n, 0) for n in names] + [("rest", 3)]), "eval")
