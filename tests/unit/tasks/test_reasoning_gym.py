"""The task of reasoning-gym's problems. Those of the package are skipped where it isn't installed;
TestWithAMock replaces it by a generator of sums."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from asyncds.tasks.base import Row, Score
from asyncds.tasks.registry import make_task


class MockGenerator:
    def __init__(self, **options: Any) -> None:
        self.options = options
        self.size = options["size"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Every question comes twice.
        return {"question": f"{index // 2} + 1?", "answer": str(index // 2 + 1)}

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return 1.0 if answer == entry["answer"] else 0.01


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_dataset(name: str, **options: Any) -> MockGenerator:
        if name != "sums":
            raise ValueError(f"Dataset '{name}' not registered")
        return MockGenerator(**options)

    fake = SimpleNamespace(create_dataset=create_dataset)
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)


@pytest.mark.usefixtures("mock")
class TestWithAMock:
    def task(self, **options: Any) -> Any:
        return make_task("reasoning_gym", dataset="sums", n_train=3, n_eval=2, **options)

    def test_splits_share_no_question(self) -> None:
        task = self.task(n_validation=1)
        splits = {split: task.rows(split) for split in ("eval", "validation", "train")}
        assert [len(rows) for rows in splits.values()] == [2, 1, 3]
        questions = [row.fields["question"] for rows in splits.values() for row in rows]
        assert questions == [f"{n} + 1?" for n in range(6)]

    def test_scores(self) -> None:
        task = self.task()
        row = task.rows("train")[0]
        assert row.fields["question"] == "2 + 1?"
        assert task.score(row, "<answer> 3 </answer>") == Score(1.0, True, ("3",))
        assert task.score(row, "<answer>4</answer>") == Score(0.1, False, ("4",))
        assert task.score(row, "3") == Score(0.0, False)
        assert "<answer>" in task.prompt(row)[0]["content"]
        assert task.multiplicity(row) is None

    def test_bad_input_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=r"no such data set 'product': .* not registered"):
            make_task("reasoning_gym", dataset="product")
        monkeypatch.setattr(MockGenerator, "__getitem__", lambda self, i: {"question": "?"})
        with pytest.raises(ValueError, match="has only 1 different problems, not 5"):
            self.task().rows("train")
        monkeypatch.setitem(sys.modules, "reasoning_gym", None)
        with pytest.raises(ValueError, match=r"install `asyncds\[reasoning\]`"):
            self.task()


def test_knights_and_knaves_of_the_package() -> None:
    pytest.importorskip("reasoning_gym")
    options = {"n_people": 2}
    tasks = [
        make_task("reasoning_gym", dataset="knights_knaves", options=options, n_train=4, n_eval=2)
        for _ in range(2)
    ]
    assert tasks[0].fingerprint() == tasks[1].fingerprint()
    row = tasks[0].rows("train")[0]
    assert isinstance(row, Row)
    entry = tasks[1]._entry(row.fields["index"])  # type: ignore[attr-defined]
    assert entry["question"] == row.fields["question"]
    assert tasks[1].score(row, f"<answer>{entry['answer']}</answer>").correct
    assert not tasks[1].score(row, "<answer>nobody</answer>").correct


@pytest.mark.parametrize("dataset", ["basic_arithmetic", "word_sorting", "leg_counting"])
def test_other_data_sets_of_the_package_by_name(dataset: str) -> None:
    pytest.importorskip("reasoning_gym")
    task, again = (
        make_task("reasoning_gym", dataset=dataset, n_train=3, n_eval=2) for _ in range(2)
    )
    assert task.fingerprint() == again.fingerprint()
    for row in [*task.rows("train"), *task.rows("eval")]:
        (own,) = again.own_answers(row)
        assert again.score(row, own).correct
        assert not again.score(row, "<answer>nobody</answer>").correct
