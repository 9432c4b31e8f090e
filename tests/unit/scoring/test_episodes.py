"""Episodes in real processes, with an environment that breaks in every way."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.frames import Reply
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Row, Score
from tests.support.paths import ROOT

KIND = "tests.support.hostile_environment:HostileEnvironment"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Any:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[ProcessPoolScorer]:
    pool = ProcessPoolScorer(
        kind=KIND, options={}, settings=ScoringConfig(**settings), episodes=True
    )
    async with asyncio.timeout(100), pool as scorer:
        yield scorer


async def play(
    scorer: ProcessPoolScorer, completions: Sequence[str], **fields: str
) -> tuple[list[Reply], Reply]:
    """The replies to completions, and that to close."""
    async with scorer.episode(Row(0, fields)) as episode:
        replies = [await episode.step(text) for text in completions]
        return replies, await episode.close()


async def is_well(scorer: ProcessPoolScorer) -> bool:
    (said, score), closed = await play(scorer, ["a", "done"])
    return (
        said.answer is not None
        and said.answer.texts == ("a!",)
        and score == Reply(score=Score(1.0, True, ("a",)))
        and closed == Reply()
    )


def test_episodes_at_the_same_time_have_states_of_their_own() -> None:
    async def test() -> None:
        async with started(episodes=3) as scorer:
            played = await asyncio.gather(
                *(play(scorer, [f"{i}", f"{i}{i}", "done"]) for i in range(9))
            )
            for i, (replies, closed) in enumerate(played):
                assert closed == Reply()
                assert replies[-1].score == Score(1.0, True, (f"{i} {i}{i}",))

    asyncio.run(test())


BROKEN = [
    ("hang", "timeout"),
    ("die", "crash"),
    ("memory", "memory"),
    ("raise", "exception"),
    ("flood", "output"),
]
RUBBISH = [
    ("rubbish", "invalid"),
    ("bytes", "invalid"),
    ("surrogate", "invalid"),
    ("nothing", "invalid"),
    ("nan", "invalid"),
    ("100 MB", "output"),
]


@pytest.mark.parametrize(
    ("where", "how", "reason"),
    [(where, how, reason) for where in ("start", "step", "close") for how, reason in BROKEN]
    + [("step", how, reason) for how, reason in RUBBISH],
)
def test_a_hostile_environment_costs_one_episode(where: str, how: str, reason: str) -> None:
    """Whatever came before, beside and after it is as it would be without it."""

    async def test() -> None:
        limits = {"timeout_seconds": 2.0, "memory_mb": 512, "episodes": 2}
        async with started(**limits) as scorer, scorer.episode(Row(0, {})) as other:
            assert (await other.step("a")).reason is None
            if where == "step":
                replies, closed = await play(scorer, ["a", how, "done"])
                assert [reply.reason for reply in replies] == [None, reason, reason]
            else:
                replies, closed = await play(scorer, ["a", "done"], **{where: how})
                expected = reason if where == "start" else None
                assert [reply.reason for reply in replies] == [expected, expected]
            assert closed.reason == reason
            assert await is_well(scorer)
            assert (await other.step("done")).score == Score(1.0, True, ("a",))
            assert await other.close() == Reply()

    asyncio.run(test())


def test_one_that_a_limit_ends_says_what_it_is_worth() -> None:
    async def test() -> None:
        async with started(episodes=1) as scorer, scorer.episode(Row(0, {})) as episode:
            await episode.step("a")
            assert (await episode.cut_off()).score == Score(0.25, False, ("a",))
            await episode.close()

    asyncio.run(test())


def test_a_process_serves_again_once_its_episode_was_closed_and_not_before() -> None:
    async def test() -> None:
        async with started(episodes=1) as scorer:
            pids = []
            for closes in (True, False, True):
                async with scorer.episode(Row(0, {})) as episode:
                    said = (await episode.step("pid")).answer
                    assert said is not None
                    pids.append(said.text)
                    if closes:
                        await episode.close()
            assert pids[0] == pids[1] != pids[2]

    asyncio.run(test())


def test_processes_are_started_as_they_are_needed() -> None:
    async def test() -> None:
        before = len(psutil.Process().children(recursive=True))
        async with started(episodes=8) as scorer:
            assert len(psutil.Process().children(recursive=True)) - before == 1
            for _ in range(3):
                assert await is_well(scorer)
            assert len(psutil.Process().children(recursive=True)) - before == 1

    asyncio.run(test())
