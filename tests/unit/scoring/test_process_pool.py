"""The process pool with real processes and a verifier that breaks in every way."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from asyncds.config.engines import ScoringConfig
from asyncds.scoring import worker_process
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import NO_SCORE, GroupScores, Scorer, ScorerUnavailableError
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


def pool(
    *,
    options: dict[str, str] | None = None,
    deadlines: dict[str, float] | None = None,
    **settings: Any,
) -> ProcessPoolScorer:
    return ProcessPoolScorer(
        kind="tests.support.scoring_breaking_task:BreakingTask",
        options=options or {},
        settings=ScoringConfig(**settings),
        **deadlines or {},
    )


async def scores_of(scorer: Scorer, completions: list[str]) -> list[Score]:
    return (await scorer.score(ROW, completions)).scores


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
            scores = await asyncio.gather(*(scores_of(scorer, group) for group in groups))
            assert scores == [[good(text) for text in group] for group in groups]
            assert await scores_of(scorer, []) == []

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
        ("None", "invalid"),
        ("nan", "invalid"),
        ("inf", "invalid"),
        ("1e39", "invalid"),
        ("text", "invalid"),
        ("two answers", "invalid"),
        ("long answer", "invalid"),
        ("unknown part", "invalid"),
        ("flood", "output"),
    ],
)
def test_a_broken_verification_costs_only_itself(completion: str, reason: str) -> None:
    async def test() -> None:
        async with started(timeout_seconds=1.0) as scorer:
            (before,) = await scores_of(scorer, ["pid"])
            judged = await scorer.score(ROW, ["a", completion, "b", "pid"])
            assert judged.scores[:3] == [good("a"), NO_SCORE, good("b")]
            assert (judged.scores[3] != before) == (reason not in ("exception", "invalid"))
            assert judged.errors == {reason: 1}

    run(test)


def test_a_group_has_its_own_errors_whatever_is_scored_beside_it() -> None:
    async def test() -> None:
        async with started(workers=2) as scorer:
            groups = [["raise"] * 8, ["a"] * 8]
            broken, clean = await asyncio.gather(*(scorer.score(ROW, g) for g in groups))
            assert broken.errors == {"exception": 8}
            assert clean == GroupScores([good("a")] * 8, {})

    run(test)


def test_every_completion_may_break() -> None:
    async def test() -> None:
        async with started(workers=2) as scorer:
            for _ in range(2):
                scores = await scorer.score(ROW, ["abort", "memory", "raise"])
                assert scores.scores == [NO_SCORE] * 3
                assert scores.errors == {"crash": 1, "memory": 1, "exception": 1}
                assert "broken verifier" in scores.error

    run(test)


def test_what_a_verifier_prints_or_reads_does_not_disturb() -> None:
    async def test() -> None:
        async with started() as scorer:
            assert await scores_of(scorer, ["print", "read", "a"]) == [
                good("print"),
                Score(1.0, True, ("''",)),
                good("a"),
            ]

    run(test)


def test_of_what_a_verifier_prints_a_little_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with started() as scorer:
            # By one worker, whose output comes in order: that of another may still be unread.
            _, score = await scores_of(scorer, ["print", "flood"])
            assert score == NO_SCORE

    run(test)
    shown = capsys.readouterr().err
    assert "not a frame" in shown
    assert "a verifier prints more than is shown" in shown
    assert 4_000 < shown.count("x") < 4_200, "others may write there too"


def test_a_number_of_another_kind_is_a_number() -> None:
    async def test() -> None:
        async with started() as scorer:
            assert await scores_of(scorer, ["fraction"]) == [Score(0.5, True)]

    run(test)


def test_memory_limit_counts() -> None:
    """The same allocation succeeds where the limit allows it."""

    async def test() -> None:
        async with started(memory_mb=2**13) as scorer:
            (score,) = await scores_of(scorer, ["memory"])
            assert score == good("memory")

    run(test)


def test_workers_import_no_heavy_library() -> None:
    async def test() -> None:
        async with started() as scorer:
            assert await scores_of(scorer, ["modules"]) == [Score(1.0, True, ("",))]

    run(test)


def test_a_cancelled_call_leaves_the_pool_usable() -> None:
    async def test() -> None:
        async with started(timeout_seconds=30.0) as scorer:
            (before,) = await scores_of(scorer, ["pid"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await scores_of(scorer, ["hang", "old"])
            scores = await scores_of(scorer, ["new", "pid"])
            assert scores[0] == good("new")
            assert scores[1] != before

    run(test)


def test_a_worker_that_died_while_idle_is_replaced_at_no_cost() -> None:
    async def test() -> None:
        async with started() as scorer:
            (score,) = await scores_of(scorer, ["pid"])
            os.kill(int(score.answers[0]), signal.SIGKILL)
            while any(worker.is_alive for worker in scorer._workers):
                await asyncio.sleep(0.01)
            assert await scorer.score(ROW, ["a"]) == GroupScores([good("a")], {})

    run(test)


def test_the_pool_does_not_rely_on_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose watchdog does not bite is given up by the pool itself."""
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", -9.5)

    async def test() -> None:
        async with started(timeout_seconds=10.0) as scorer:
            assert await scores_of(scorer, ["hang", "a"]) == [NO_SCORE, good("a")]

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
    seconds = 3.0 if options == {"start": "hang"} else 60.0  # it may be slow to start

    async def test() -> None:
        scorer = pool(workers=2, options=options, deadlines={"start_seconds": seconds})
        with pytest.raises(ScorerUnavailableError, match=message):
            await scorer.start()

    run(test)


def test_close_kills_what_does_not_end() -> None:
    async def test() -> None:
        scorer = pool(timeout_seconds=600.0, deadlines={"close_seconds": 0.1})
        await scorer.start()
        hanging = asyncio.create_task(scores_of(scorer, ["hang"]))
        await asyncio.sleep(0)
        await scorer.close()
        with pytest.raises(ScorerUnavailableError, match="closed"):
            await scores_of(scorer, ["a"])
        await asyncio.wait([hanging], timeout=30)
        assert hanging.done()
        await scorer.close()

    run(test)
