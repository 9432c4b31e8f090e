"""The grader of the task math against a table of right answers, answers and verdicts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Row
from asyncds.tasks.math.equality import same_answer
from asyncds.tasks.math.guard import no_generated_code
from asyncds.tasks.math.typography import clean
from asyncds.tasks.math.units import quantity
from asyncds.tasks.math.verifier import score_boxed
from asyncds.tasks.math.words import is_product

TABLE: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("grading.yaml").read_text()
)
JUDGED_HERE = [kind for kind, entry in TABLE.items() if not entry.get("limited")]
LIMITED = [kind for kind, entry in TABLE.items() if entry.get("limited")]


def completion(entry: dict[str, Any], answer: str) -> str:
    return answer if entry.get("completions") else rf"so it is \boxed{{{answer}}}, done"


class TestTable:
    @pytest.mark.parametrize("kind", JUDGED_HERE)
    def test_verdicts(self, kind: str) -> None:
        entry = TABLE[kind]
        wrong = [
            f"{right} <- {answer} should be {verdict}"
            for right, answer, verdict in entry["pairs"]
            if score_boxed(completion(entry, answer), right).reward != verdict
        ]
        assert not wrong, "\n".join(wrong)

    def test_limits_end_what_does_not_end(self) -> None:
        """In a scorer's process, under its time limit, as in a run."""
        pairs = [pair for kind in LIMITED for pair in TABLE[kind]["pairs"]]

        async def rewards() -> list[float]:
            nowhere = [{"dataset": "/nowhere"}]
            async with ProcessPoolScorer(
                kind="math",
                options={"train": nowhere, "eval": nowhere},
                settings=ScoringConfig(workers=2, timeout_seconds=2.0),
            ) as scorer:
                row = Row(0, {"problem": "?", "answer": "5"})
                answers = [rf"\boxed{{{answer}}}" for _, answer, _ in pairs]
                scored = await scorer.score(row, answers)
                return [score.reward for score in scored.scores]

        assert {right for right, _, _ in pairs} == {"5"}
        assert asyncio.run(rewards()) == [verdict for _, _, verdict in pairs]

    def test_the_table_is_sound(self) -> None:
        pairs = [(kind, *pair) for kind, entry in TABLE.items() for pair in entry["pairs"]]
        assert len(pairs) == len({pair[:3] for pair in pairs}) >= 300
        assert {verdict for *_, verdict in pairs} == {0, 1}
        assert all(entry["why"] for entry in TABLE.values())


class TestParts:
    @pytest.mark.parametrize("run", ["xy", "abc", "pqr", "lwh", "mn", "uvw", "zyx"])
    def test_products(self, run: str) -> None:
        assert is_product(run)

    @pytest.mark.parametrize("run", ["ABC", "dog", "listen", "no", "Tuesday", "AB", "rhythm"])
    def test_labels_and_words(self, run: str) -> None:
        assert not is_product(run)

    def test_a_quantity(self) -> None:
        speed = quantity(r"72 \text{km}/\text{h}").unit
        assert speed is not None
        assert speed.dimensions == (("length", 1), ("time", -1))
        assert quantity("x + 3c").unit is None

    @settings(deadline=None, max_examples=200)
    @given(st.text(alphabet="0123456789+-*/{}()[],.=<>\\ $%xyabsqrtfn√½textbfcm", max_size=40))
    def test_an_answer_is_itself(self, text: str) -> None:
        """Whatever it is, if anything of it is left without what is typography."""
        if clean(text):
            with no_generated_code():
                assert same_answer(text, text)
