"""The reward `math`: the boxed answer is right, by the grader of the math task."""

from typing import Any

from asyncds.tasks.data import text
from asyncds.tasks.math.dataset import final_answer
from asyncds.tasks.math.verifier import score_boxed


def boxed(completion: str, answer: Any) -> dict[str, Any]:
    """1 if the last ``\\boxed{…}`` of the completion equals the answer, else 0."""
    score = score_boxed(completion, final_answer(text(answer)))
    return {"reward": score.reward, "correct": score.correct, "answer": "".join(score.answers)}
