"""The Ray pool on real clusters of this machine, with a verifier that breaks in every way."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncds.config.engines import ScoringConfig
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import NO_SCORE, GroupScores, ScorerUnavailableError
from asyncds.tasks.base import Row, Score
from tests.support.paths import ROOT

pytest.importorskip("ray", reason="the package ray is not installed (pip install asyncds[ray])")

from asyncds.scoring.ray_pool import RayScorer

pytestmark = pytest.mark.slow

ROW = Row(7, {"word": "seven"})
TASK: dict[str, Any] = {"kind": "tests.support.scoring_breaking_task:BreakingTask", "options": {}}
MARK = "ASYNCDS_TEST_SCORING_RAY"
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Ray's processes inherit: where the task is, a mark to find them by, and a home of their
    own, where Ray keeps the token that protects a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(MARK, uuid.uuid4().hex)
        yield


def ray_scorer(
    *, deadlines: dict[str, float] | None = None, task: dict[str, Any] = TASK, **settings: Any
) -> RayScorer:
    settings = {"backend": "ray", "timeout_seconds": 10, **settings}
    return RayScorer(**task, settings=ScoringConfig(**settings), **deadlines or {})


def left() -> list[str]:
    """Command lines of the processes that descend from this test and are not over."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get(MARK) == os.environ[MARK]
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def run(test: Coroutine[Any, Any, None]) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(100):
            await test

    asyncio.run(with_deadline())


def good(completion: str) -> Score:
    return Score(0.5, True, (f"7 seven {completion}",))


class TestOwnCluster:
    """A cluster that the scorer starts for itself."""

    @pytest.fixture(scope="class")
    def loop(self) -> Iterator[asyncio.Runner]:
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture(scope="class")
    def scorer(self, loop: asyncio.Runner) -> Iterator[RayScorer]:
        scorer = ray_scorer(workers=2, timeout_seconds=1)
        loop.run(scorer.start())
        yield scorer
        loop.run(scorer.close())
        assert left() == []

    def test_scores_are_those_of_the_process_pool(
        self, loop: asyncio.Runner, scorer: RayScorer
    ) -> None:
        groups = [[f"{g}-{i}" for i in range(5)] for g in range(10)]

        async def both() -> None:
            async with ProcessPoolScorer(**TASK, settings=ScoringConfig()) as processes:
                expected = [await processes.score(ROW, group) for group in groups]
            scores = await asyncio.gather(*(scorer.score(ROW, group) for group in groups))
            assert scores == expected
            assert await scorer.score(ROW, []) == GroupScores([], {})

        loop.run(both())

    @pytest.mark.parametrize(
        ("completion", "reason"),
        [
            ("hang", "timeout"),
            ("hang in C", "timeout"),
            ("abort", "crash"),
            ("sys.exit", "crash"),
            ("memory", "memory"),
            ("raise", "exception"),
        ],
    )
    def test_a_broken_verification_costs_only_itself(
        self, loop: asyncio.Runner, scorer: RayScorer, completion: str, reason: str
    ) -> None:
        judged = loop.run(scorer.score(ROW, ["a", completion, "b"]))
        assert judged.scores == [good("a"), NO_SCORE, good("b")]
        assert judged.errors == {reason: 1}
        assert judged.error.startswith(reason)

    def test_an_actor_that_does_not_answer_is_replaced(
        self, loop: asyncio.Runner, scorer: RayScorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        actors = list(scorer._workers)
        for worker in actors:
            monkeypatch.setattr(worker, "_patience", 0.2)

        async def hang_all() -> None:
            groups = await asyncio.gather(*(scorer.score(ROW, ["hang", "a"]) for _ in actors))
            said = "timeout the actor did not answer"
            assert groups == [GroupScores([NO_SCORE, good("a")], {0: "timeout"}, said)] * 2

        loop.run(hang_all())
        assert not any(worker.is_alive for worker in actors)

    def test_an_actor_that_died_costs_nothing(
        self, loop: asyncio.Runner, scorer: RayScorer
    ) -> None:
        async def kill_all() -> None:
            pids = await asyncio.gather(*(scorer.score(ROW, ["pid"]) for _ in range(2)))
            for one in pids:
                os.kill(psutil.Process(int(one.scores[0].answers[0])).ppid(), signal.SIGKILL)
            groups = await asyncio.gather(*(scorer.score(ROW, ["a", "b"]) for _ in range(4)))
            assert groups == [GroupScores([good("a"), good("b")], {})] * 4

        loop.run(kill_all())


class TestGivenCluster:
    """A cluster that is there before the scorer and stays."""

    @pytest.fixture(scope="class")
    def address(self) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(SCRIPTS / "ray"), "start", "--head", "--block", f"--port={port}"]
        command += ["--num-cpus=1", "--include-dashboard=false", "--object-store-memory=100000000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as head:
            assert head.stdout is not None
            output = ""
            while "Ray runtime started" not in output:
                line = head.stdout.readline()
                assert line, output
                output += line
            yield f"127.0.0.1:{port}"
            head.terminate()
            head.communicate(timeout=60)
        assert left() == []

    def test_scores_and_leaves_nothing_behind(self, address: str) -> None:
        async def test() -> None:
            scorer = ray_scorer(ray_address=address, cpus_per_worker=0.5, workers=2)
            async with scorer:
                assert any("asyncds.scoring.worker" in line for line in left())
                judged = await scorer.score(ROW, ["a", "abort", "b"])
                assert judged.scores == [good("a"), NO_SCORE, good("b")]
            assert not any("asyncds.scoring.worker" in line for line in left())
            with pytest.raises(ScorerUnavailableError, match="closed"):
                await scorer.score(ROW, ["a"])
            await scorer.close()

        run(test())
        assert any("raylet" in line for line in left())

    def test_close_ends_what_hangs(self, address: str) -> None:
        async def test() -> None:
            scorer = ray_scorer(
                ray_address=address, timeout_seconds=600, deadlines={"close_seconds": 0.1}
            )
            async with scorer:
                hanging = asyncio.create_task(scorer.score(ROW, ["hang"]))
                await asyncio.sleep(0)
            with pytest.raises(ScorerUnavailableError):
                await hanging
            assert not any("asyncds.scoring.worker" in line for line in left())

        run(test())

    def test_a_task_that_can_not_be_made_is_said_at_start(self, address: str) -> None:
        async def test() -> None:
            task = {**TASK, "options": {"start": "fail"}}
            with pytest.raises(ScorerUnavailableError, match="no such data"):
                await ray_scorer(task=task, ray_address=address).start()

        run(test())

    def test_too_few_cpus_are_said_at_start(self, address: str) -> None:
        async def test() -> None:
            scorer = ray_scorer(
                ray_address=address, cpus_per_worker=2, deadlines={"start_seconds": 5.0}
            )
            with pytest.raises(ScorerUnavailableError, match="enough free CPUs"):
                await scorer.start()

        run(test())


def test_a_cluster_that_is_not_there_is_said_within_the_deadline() -> None:
    """In a process of its own, which must also be able to end although Ray goes on trying."""
    script = (
        "import asyncio; from tests.integration.test_scoring_ray import ray_scorer\n"
        "asyncio.run(ray_scorer(\n"
        "    ray_address='127.0.0.1:1', deadlines={'start_seconds': 1.0}).start())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert "no connection to Ray at 127.0.0.1:1: no answer within 1 s" in done.stderr
