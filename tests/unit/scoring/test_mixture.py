"""Scorer processes of several tasks: episodes of one, completions of another."""

import asyncio
from typing import Any

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.environment import Answer
from asyncds.tasks.registry import make_task

TASKS: dict[str, Any] = {
    "plain": {"kind": "countdown", "options": {"n_eval": 3}},
    "calculator": {"kind": "calculator", "options": {"n_eval": 3}},
}


def test_completions_and_episodes_are_judged_by_their_own_tasks() -> None:
    rows = make_task("mixture", tasks=TASKS).rows("eval")

    async def judged() -> tuple[Any, ...]:
        settings = ScoringConfig(workers=1, episodes=2)
        pool = ProcessPoolScorer(
            kind="mixture", options={"tasks": TASKS}, settings=settings, episodes=True
        )
        async with asyncio.timeout(100), pool as scorer:
            scores = (await scorer.score(rows[0], ["1", "?"])).scores
            async with scorer.episode(rows[4]) as episode:
                said, end = await episode.step("5 * 6 ="), await episode.step("3")
                await episode.close()
        return scores, said, end

    (right_form, wrong_form), said, end = asyncio.run(judged())
    assert (right_form.parts, right_form.answers) == ({}, ("1", "1", "1"))
    assert wrong_form.answers == ()
    assert said.answer == Answer(("30 :",))
    assert end.score.parts == {"calls": 1.0, "tool_errors": 0.0}
