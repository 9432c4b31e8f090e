"""The coordinator's process on a disk that is full, and has room again: nothing is lost.

The disk is real (a tmpfs), so are the journal and the sockets; learner and generators are
simulated.
"""

import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from asyncds.protocol import wire
from asyncds.rollout.journal import Journal
from asyncds.transport.observer import Observer
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_generator import SimGenerator
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.socket_run import DEADLINE, SocketRun, socket_run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", mebibytes=48) as disk:
        yield disk


class Watched:
    """A run on the disk. acknowledged: leases that generators were told are safe."""

    def __init__(self, run: SocketRun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.acknowledged: set[int] = set()
        receive = SimGenerator.receive

        def watching(generator: SimGenerator, message: wire.Message) -> None:
            if isinstance(message, wire.Ack):
                self.acknowledged.update(message.leases)
            receive(generator, message)

        monkeypatch.setattr(SimGenerator, "receive", watching)

    def waits(self) -> bool:
        """For room, as far as its metrics say."""
        with suppress(urllib.error.URLError):
            return self.run.metrics()["disk_full"] == 1
        return False

    def go_on_until_it_waits(self) -> None:
        self.run.go_on_until(self.waits, "the full disk is not noticed")
        # By then everybody was asked who it is, and nobody was told.
        members = self.run.members()
        self.run.go_on_until(
            lambda: not any(member.welcomed for member in members), "somebody was not asked"
        )

    def check_journal(self) -> None:
        """It has what was acknowledged, and what honest generators made."""
        path = Path(self.run.config.runs_dir) / "r" / "journal.db"
        with closing(Journal(path, read_only=True)) as journal:
            groups = list(journal.groups())
            assert self.acknowledged <= {group.lease for group in groups}
            for group in groups:
                assert (group.generator, group.payload) in self.run.made[group.lease]
            batches: dict[int, set[int]] = {}
            for group in groups:
                if group.step is not None and group.step in self.run.timeline:
                    batches.setdefault(group.step, set()).add(group.lease)
            assert batches == self.run.timeline


@pytest.fixture
def watched(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    changes: dict[str, Any] = {"coordinator__suspect_seconds": 60, "coordinator__dead_seconds": 120}
    changes |= getattr(request, "param", {})
    config = make_config(steps=1_000_000, eval={"n_problems": 3, "n_samples": 2}, **changes)
    with socket_run(disk.path, config) as run:
        yield Watched(run, monkeypatch)


def ready(run: SocketRun) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{run.metrics_port}/readyz") as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_a_run_waits_for_room_and_goes_on(disk: SmallDisk, watched: Watched) -> None:
    run = watched.run
    for _ in range(2):
        disk.fill()
        watched.go_on_until_it_waits()
        acknowledged, trained = set(watched.acknowledged), run.steps_trained
        with closing(Observer(run.address)) as observer:
            status = observer.status(DEADLINE)
        assert status is not None
        assert f"the disk of {disk.path / 'r'} is full: make room" in status.message
        assert "is full" in ready(run)
        watched.check_journal()
        assert watched.acknowledged == acknowledged, "nothing is while there is no room"
        disk.make_room()
        run.go_on_until(lambda t=trained: run.steps_trained >= t + 3, "it does not go on")
        assert not watched.waits()
    assert len(watched.acknowledged) > len(acknowledged)
    assert run.end() == 0, run.log_text()[-2000:]
    watched.check_journal()
    text = run.log_text()
    assert text.count("is full: make room") == text.count("there is room on the disk") == 2
    assert "Traceback" not in text
    assert not list(disk.path.rglob(".room"))


@pytest.mark.parametrize(
    ("watched", "signalled"),
    [
        # Stragglers are done before that: a run that waits for one is not one that hangs.
        ({"coordinator__stall_seconds": 4, "rollout__straggler_seconds": 1}, False),
        ({}, True),
    ],
    indirect=["watched"],
)
def test_a_run_that_waited_long_enough_or_is_told_to_stop_can_be_resumed(
    disk: SmallDisk, watched: Watched, signalled: bool
) -> None:
    run = watched.run
    disk.fill()
    watched.go_on_until_it_waits()
    if signalled:
        run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(DEADLINE) == 1
    assert "nothing acknowledged is lost: free space, then resume" in run.log_text()
    watched.check_journal()
    disk.make_room()
    run.start_coordinator()
    trained = run.steps_trained
    run.go_on_until(lambda: run.steps_trained >= trained + 3, "it does not go on")
    assert run.end() == 0, run.log_text()[-2000:]
    watched.check_journal()
