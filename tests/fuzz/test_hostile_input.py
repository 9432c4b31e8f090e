"""A run under attack: it goes on, keeps its size, and its journal has what honest peers did.

`--frames N` attacks with N frames, `--fuzz-seed N` with others. An attack is repeated as far as one
on a live run can be: what is drawn is the same, not when it arrives or what there is to overhear.
`make fuzz` sends a million. That an enemy is held off here does not show that every one is.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncds.rollout.journal import Journal
from asyncds.transport.keys import make_keys
from tests.fuzz.enemy import Enemy
from tests.simulation.simulated_config import make_config
from tests.support.socket_run import SocketRun, socket_run

MIB = 1 << 20
GROWTH = 16 * MIB
"""The most that the coordinator may grow by: frames under way on every link, and the run itself."""


@pytest.fixture(params=["plain", "encrypted"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SocketRun]:
    # Where many tests run at once a peer may be held up for long.
    changes: dict[str, Any] = {"coordinator__suspect_seconds": 60, "coordinator__dead_seconds": 120}
    if request.param == "encrypted":
        keys = tmp_path / "keys"
        make_keys(keys, ["client"])
        changes["coordinator__curve"] = {
            "server_secret": str(keys / "server.key_secret"),
            "clients": str(keys / "clients"),
            "server_public": str(keys / "server.key"),
            "client_secret": str(keys / "client.key_secret"),
        }
    config = make_config(steps=1_000_000, eval={"n_problems": 3, "n_samples": 2}, **changes)
    with socket_run(tmp_path / "runs", config) as run:
        yield run


def test_a_run_under_attack_goes_on_as_if_nothing_was(
    run: SocketRun, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = pytestconfig.getoption("frames", None) or 20_000
    seed = pytestconfig.getoption("fuzz_seed", None) or 0
    if run.keys is not None:
        frames //= 4
    enemy = Enemy(run, seed=seed)
    said = f"seed {seed}, {frames} frames, {'encrypted' if run.keys else 'plain'}"
    print(said)
    while enemy.count < frames // 10:
        run.turn()
        enemy.attack()
    before, started, trained = run.memory(), time.monotonic(), run.steps_trained
    largest = before
    while enemy.count < frames or run.steps_trained < trained + 3:
        run.turn()
        enemy.attack()
        largest = max(largest, run.memory())
    run.go_on_until(
        lambda: run.metrics()["rejected_frames_total"] >= enemy.rejected, "frames are not counted"
    )
    enemy.withdraw()
    after = run.steps_trained
    run.go_on_until(lambda: run.steps_trained >= after + 3, "the run does not go on")
    metrics, memory = run.metrics(), run.memory()
    with capsys.disabled():
        print(
            f"\n{said}: {time.monotonic() - started:.0f} s, {dict(enemy.kinds)}, "
            f"{metrics['rejected_frames_total']:.0f} rejected, {after - trained} steps trained, "
            f"{before / MIB:.0f} MiB before, {largest / MIB:.0f} at most, {memory / MIB:.0f} after"
        )
    assert largest - before < GROWTH
    assert run.process.poll() is None
    rejected = metrics["rejected_frames_total"]
    assert enemy.rejected <= rejected <= enemy.rejected + enemy.doubtful
    assert metrics['rejected_connections_total{reason="handshake"}'] > 0
    turned_away = metrics['rejected_connections_total{reason="not_allowed"}']
    assert turned_away > 0 if run.keys is not None else turned_away == 0
    assert len(run.log_text()) < MIB, "an enemy can't fill the disk with lines"
    assert run.end() == 0, run.log_text()[-2000:]
    assert "Traceback" not in run.log_text()
    check_journal(run)


def check_journal(run: SocketRun) -> None:
    """It has the groups that honest generators made for their leases, and the batches that the
    learner trained."""
    path = Path(run.config.runs_dir) / "r" / "journal.db"
    with closing(Journal(path, read_only=True)) as journal:
        groups = list(journal.groups())
        for group in groups:
            assert (group.generator, group.payload) in run.made[group.lease]
        assert len(groups) == len({group.lease for group in groups})
        batches: dict[int, set[int]] = {}
        for group in groups:
            if group.step is not None and group.step in run.timeline:
                batches.setdefault(group.step, set()).add(group.lease)
        assert batches == run.timeline
        assert set(journal.ended()) <= {"stale"}, "nothing failed"
        assert journal._db.execute("SELECT count(*) FROM tries").fetchone() == (0,)
        assert [e.n_problems for e in journal.evaluations()] == [3]
        # The run was stopped: of the last batch the learner may not have said that it is trained.
        assert len(run.timeline) - len(journal.steps()) in (0, 1)
