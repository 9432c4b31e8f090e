"""The process pool with real processes and a verifier that breaks in every way."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from asyncds.scoring import worker_process
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import NO_SCORE, ScorerUnavailableError
from asyncds.tasks.base import Row, Score
from tests.support.paths import ROOT

ROW = Row(7, {"word": "seven"})


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Any:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def pool(**settings: Any) -> ProcessPoolScorer:
    settings.setdefault("options", {})
    return ProcessPoolScorer(kind="tests.support.scoring_breaking_task:BreakingTask", **settings)


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[ProcessPoolScorer]:
    async with asyncio.timeout(60), pool(**settings) as scorer:
        yield scorer


def good(completion: str) -> Score:
    return Score(0.5, True, (f"7 seven {completion}",))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_scores_come_in_order() -> None:
    async def test() -> None:
        async with started(workers=2) as scorer:
            groups = [[f"{g}-{i}" for i in range(20)] for g in range(30)]
            scores = await asyncio.gather(*(scorer.score(ROW, group) for group in groups))
            assert scores == [[good(text) for text in group] for group in groups]
            assert await scorer.score(ROW, []) == []
            assert not any(scorer.errors.values())

    run(test)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("hang", "timeout"),
        ("hang in C", "timeout"),
        ("abort", "crash"),
        ("exit", "crash"),
        ("sys.exit", "crash"),
        ("memory", "memory"),
        ("raise", "exception"),
    ],
)
def test_a_broken_verification_costs_only_itself(completion: str, reason: str) -> None:
    async def test() -> None:
        async with started(time_limit=1.0) as scorer:
            (before,) = await scorer.score(ROW, ["pid"])
            scores = await scorer.score(ROW, ["a", completion, "b", "pid"])
            assert scores[:3] == [good("a"), NO_SCORE, good("b")]
            assert (scores[3] != before) == (reason != "exception")
            expected = dict.fromkeys(["timeout", "memory", "crash", "exception"], 0)
            assert scorer.errors == {**expected, reason: 1}

    run(test)


def test_every_completion_may_break() -> None:
    async def test() -> None:
        async with started(workers=2) as scorer:
            for _ in range(2):
                assert await scorer.score(ROW, ["abort", "memory", "raise"]) == [NO_SCORE] * 3
            assert scorer.errors == {"timeout": 0, "memory": 2, "crash": 2, "exception": 2}

    run(test)


def test_what_a_verifier_prints_or_reads_does_not_disturb() -> None:
    async def test() -> None:
        async with started() as scorer:
            assert await scorer.score(ROW, ["print", "read", "a"]) == [
                good("print"),
                Score(1.0, True, ("''",)),
                good("a"),
            ]

    run(test)


def test_memory_limit_counts() -> None:
    """The same allocation succeeds where the limit allows it."""

    async def test() -> None:
        async with started(memory_limit=2**33) as scorer:
            (score,) = await scorer.score(ROW, ["memory"])
            assert score == good("memory")

    run(test)


def test_workers_import_no_heavy_library() -> None:
    async def test() -> None:
        async with started() as scorer:
            assert await scorer.score(ROW, ["modules"]) == [Score(1.0, True, ("",))]

    run(test)


def test_a_cancelled_call_leaves_the_pool_usable() -> None:
    async def test() -> None:
        async with started(time_limit=30.0) as scorer:
            (before,) = await scorer.score(ROW, ["pid"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await scorer.score(ROW, ["hang", "old"])
            scores = await scorer.score(ROW, ["new", "pid"])
            assert scores[0] == good("new")
            assert scores[1] != before

    run(test)


def test_a_worker_that_died_while_idle_is_replaced_at_no_cost() -> None:
    async def test() -> None:
        async with started() as scorer:
            (score,) = await scorer.score(ROW, ["pid"])
            os.kill(int(score.answers[0]), signal.SIGKILL)
            while any(worker.is_alive for worker in scorer._workers):
                await asyncio.sleep(0.01)
            assert await scorer.score(ROW, ["a"]) == [good("a")]
            assert not any(scorer.errors.values())

    run(test)


def test_the_pool_does_not_rely_on_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose watchdog does not bite is given up by the pool itself."""
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", -9.5)

    async def test() -> None:
        async with started(time_limit=10.0) as scorer:
            assert await scorer.score(ROW, ["hang", "a"]) == [NO_SCORE, good("a")]

    run(test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "fail"}, "no such data"),
        ({"start": "hang"}, "not ready within"),
        ({"strat": "fail"}, "strat"),
    ],
)
def test_a_task_that_can_not_be_made_is_said_at_start(
    options: dict[str, str], message: str
) -> None:
    async def test() -> None:
        scorer = pool(workers=2, options=options, start_seconds=3.0)
        with pytest.raises(ScorerUnavailableError, match=message):
            await scorer.start()

    run(test)


def test_close_kills_what_does_not_end() -> None:
    async def test() -> None:
        scorer = pool(time_limit=600.0, close_seconds=0.1)
        await scorer.start()
        hanging = asyncio.create_task(scorer.score(ROW, ["hang"]))
        await asyncio.sleep(0)
        await scorer.close()
        with pytest.raises(ScorerUnavailableError, match="closed"):
            await scorer.score(ROW, ["a"])
        await asyncio.wait([hanging], timeout=30)
        assert hanging.done()
        await scorer.close()

    run(test)
