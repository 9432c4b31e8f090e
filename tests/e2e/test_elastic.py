"""1 → 4 → 2 → 3 generators while a run goes on, with new weights after every step.

Shows that joining and leaving by SIGTERM disturb nobody else on this machine, over gloo. It can't
show that NCCL, or a network between machines, builds its groups anew as smoothly.
"""

import re
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import read_run_log
from tests.e2e.harness import RUN_SECONDS, Runner

NAME = "elastic"
START_SECONDS = 600
"""For three engines to start at once."""
SERVES = re.compile(r"(\S+) serves version (\d+), ([\d.]+) s after it joined")
SYNC = re.compile(r"^(\S+) .*weight sync (\d+)(?:: version (\d+) at| to version)", re.MULTILINE)
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3 * START_SECONDS)]


class Fleet:
    """The generators that join, and what the run says of all of them."""

    def __init__(self, runner: Runner, run: "subprocess.Popen[str]", wait: Any) -> None:
        self.directory = runner.root / NAME
        self.joined: dict[str, subprocess.Popen[str]] = {}
        self._runner, self._run, self._wait = runner, run, wait

    def join(self, *names: str) -> None:
        """Start generators for the run that goes on; their logs are beside the others'."""
        for name in names:
            command = [*self._runner.asyncds("generator", str(self.directory)), "--name", name]
            with (self.directory / "logs" / f"{name}.log").open("w") as log:
                self.joined[name] = self._runner.start(*command, output=log)

    def leave(self, *names: str) -> None:
        """Tell generators to leave; their exit codes must be those of a good end."""
        for name in names:
            self.joined[name].send_signal(signal.SIGTERM)
        for name in names:
            assert self.joined[name].wait(RUN_SECONDS) == 0, self.log(name)

    def trains_with(self, healthy: int) -> None:
        """Wait for some steps in a row with so many healthy generators."""

        def reached() -> bool:
            for name, process in self.joined.items():
                assert process.poll() in (None, 0), self.log(name)
            steps = [line["healthy"] for line in self.steps()]
            return steps[-3:] == [healthy] * 3

        self._wait(reached, self._run, seconds=START_SECONDS)

    def steps(self) -> list[dict[str, Any]]:
        path = self.directory / "metrics.jsonl"
        return read_run_log(path) if path.exists() else []

    def log(self, name: str) -> str:
        return (self.directory / "logs" / f"{name}.log").read_text()


@pytest.fixture
def fleet(runner: Runner, wait_until: Callable[..., None]) -> Iterator[Fleet]:
    endless = ("steps=1000000", "checkpoint.every=1000000", "generator.kv_cache_gb=0.25")
    batch = ("rollout.groups_per_step=32", "rollout.group_size=8")  # the quickstart's own
    run = runner.start(*runner.command(NAME, *endless, *batch))
    fleet = Fleet(runner, run, wait_until)
    try:
        yield fleet
    finally:
        for process in (run, *fleet.joined.values()):
            process.terminate()
        for process in (run, *fleet.joined.values()):
            process.wait(RUN_SECONDS)


def test_generators_come_and_go_while_a_run_goes_on(
    runner: Runner, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fleet._run
    fleet.trains_with(1)
    own = {child.pid for child in psutil.Process(run.pid).children()}
    fleet.join("b", "c", "d")
    fleet.trains_with(4)
    fleet.leave("b", "d")
    fleet.trains_with(2)
    fleet.join("e")
    fleet.trains_with(3)
    assert {child.pid for child in psutil.Process(run.pid).children()} == own
    run.send_signal(signal.SIGINT)
    result = runner.finish(run, NAME)
    assert result.code == 0, result.output
    for name in ("c", "e"):
        assert fleet.joined[name].wait(RUN_SECONDS) == 0, "told to leave with the others"
    assert "started again" not in result.output

    log = fleet.log("coordinator-0")
    waits = {name: joined_to_healthy(log, name) for name in ("b", "c", "d", "e")}
    syncs = [(when, int(version)) for when, _, version in SYNC.findall(log) if version]
    versions = [version for _, version in syncs]
    trained = result.summary["steps"]
    assert versions == sorted(versions)
    assert trained - versions[-1] <= 1, "only of the last step they may not be sent any more"
    with closing(Journal(result.directory / "journal.db", read_only=True)) as journal:
        check_leases(journal, left={"b", "d"})
        trained_from = {g.generator for g in journal.groups(from_step=0)}
        assert trained_from == {"generator-0", "b", "c", "d", "e"}
        assert all(g.lag <= 4 for g in journal.groups(from_step=0) if g.lag is not None)
        handed_back = journal._db.execute("SELECT count(*) FROM tries").fetchone()[0]
    interval = statistics.median(intervals(syncs))
    with capsys.disabled():
        print(
            f"\n{trained} steps, {len(set(versions))} versions sent, one every {interval:.2f} s "
            f"(median); from joined to healthy: "
            f"{', '.join(f'{name} {s:.2f} s' for name, s in waits.items())}; "
            f"{handed_back} leases handed back"
        )


def joined_to_healthy(log: str, name: str) -> float:
    """Seconds. The first broadcast that began after it joined must have made it healthy, so only
    one that was under way by then may have ended in between."""
    between = log.partition(f" {name} joined\n")[2].partition(f" {name} serves version")[0]
    assert len({sync for _, sync, _ in SYNC.findall(between)}) <= 1, between
    (seconds,) = [float(s) for who, _, s in SERVES.findall(log) if who == name]
    return seconds


def intervals(syncs: list[tuple[str, int]]) -> list[float]:
    """Seconds between one version and the next."""
    first: dict[int, datetime] = {}
    for when, version in syncs:
        first.setdefault(version, datetime.strptime(when, "%H:%M:%S.%f"))
    return [(b - a).total_seconds() for a, b in pairwise(first.values())]


def check_leases(journal: Journal, *, left: set[str]) -> None:
    """Nothing was lost: work of who left was handed back, and done by somebody else."""
    tries = journal._db.execute("SELECT generator, outcome FROM tries").fetchall()
    assert {outcome for _, outcome in tries} <= {"left"}
    assert {generator for generator, _ in tries} <= left
    assert journal.ended() == {}
    open_ = journal.counts().get("leased", 0)
    again = journal._db.execute(
        "SELECT count(*) FROM leases WHERE state = 'leased' AND id IN (SELECT lease FROM tries)"
    ).fetchone()[0]
    assert again <= open_, Path(journal.path)
