"""How a generator packs the answers of a group."""

import numpy as np

from asyncds.engine.generation import Completion
from asyncds.scoring.scorer import NO_SCORE, GroupScores
from asyncds.tasks.base import Score
from asyncds.tasks.registry import make_task
from services.generator.work import _arrays, _by_equivalence


def test_answers_go_out_by_equivalence_with_the_primary_one_first() -> None:
    task = make_task("countdown", n_eval=4, equivalence="associative")
    packed = _by_equivalence([("1 + 2", "(1+2)", "(1+2)"), ()], task)
    assert list(packed) == ["associative", "written", "commutative"]
    assert packed["written"] == ["1 + 2", ""]
    assert packed["associative"] == ["(1+2)", ""]


def test_parts_of_rewards_go_out_by_name_and_are_nought_where_there_is_no_score() -> None:
    task = make_task("countdown", n_eval=4)
    task.reward_parts = ("exact", "brief")  # type: ignore[attr-defined]
    completion = Completion(
        token_ids=np.array([1], dtype=np.int32),
        logprobs=np.array([-1.0], dtype=np.float32),
        versions=np.array([0], dtype=np.int32),
        text="",
        finish_reason="stop",
    )
    scores = [Score(1.5, True, (), {"exact": 1.0, "brief": 0.5}), NO_SCORE]
    judged = GroupScores(scores, {1: "timeout"})
    arrays = _arrays(np.array([1], dtype=np.int32), [completion] * 2, judged, task)
    assert arrays.reasons == ["", "timeout"]
    assert {name: values.tolist() for name, values in arrays.parts.items()} == {
        "exact": [1.0, 0.0],
        "brief": [0.5, 0.0],
    }
