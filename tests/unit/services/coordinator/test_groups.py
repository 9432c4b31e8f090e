"""Groups that are delivered: once, twice, malformed, and without signal."""

import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyncds.protocol import wire
from asyncds.protocol.codec import pack_group
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_file import JournalError
from services.coordinator.dynamic_sampling import DynamicSampling, Signal, Verdict
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_generator import VOCABULARY
from tests.support.coordinator_fixture import (
    DYNAMIC_SAMPLING,
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
    running,
    running_ids,
)
from tests.support.rollout_groups import make_group


def test_delivered_twice_is_acknowledged_twice_and_kept_once(driver: Driver) -> None:
    lease = running(driver)[0]
    for _ in range(2):
        assert wire.Ack(leases=[lease.id]) in driver.say(b"g", delivered(lease))
    assert driver.journal.counts()["delivered"] == 1
    assert driver.c.parts.leases.counts.events["duplicate"] == 1


def test_a_group_without_signal_is_dropped_and_another_prompt_comes(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, **DYNAMIC_SAMPLING)) as driver:
        first, second, *_ = granted = running(driver)
        answer = driver.say(b"g", delivered(first), delivered(second, correct=(True, False)))
        acks = only(answer, wire.Ack)
        assert acks == [wire.Ack(leases=[first.id]), wire.Ack(leases=[second.id])]
        assert driver.journal.ended() == {"zero_signal": 1}
        assert [r.id for r in driver.journal.leases("delivered")] == [second.id]
        assert driver.c.parts.leases.counts.dropped == {"zero_signal": 1}
        assert driver.c.parts.leases.counts.events["kept_without_signal"] == 0
        assert {new.row for new in leases(answer)}.isdisjoint({g.row for g in granted})
        assert wire.Ack(leases=[first.id]) in driver.say(b"g", delivered(first)), "known already"


def test_a_hopeless_task_does_not_starve_the_learner(tmp_path: Path) -> None:
    """Across restarts: what was dropped for this batch is not forgotten."""
    verdicts, config = [], make_config(**DYNAMIC_SAMPLING)
    for _ in range(4):
        with closing(Journal(tmp_path / "journal.db")) as journal:
            sampling = DynamicSampling(config=config, signal=Signal(config), journal=journal)
            verdicts += [sampling.judge(make_group(), step=0) for _ in range(2)]
    drop, excused = Verdict.DROP, Verdict.EXCUSED
    assert verdicts == [drop, drop, drop, excused, excused, excused, drop, drop]


def test_a_group_is_judged_by_what_is_in_force_for_the_next_batch(tmp_path: Path) -> None:
    falling = {"kind": "ds_grpo", "gamma_n": {"start": 1.0, "end": 0.0, "steps": 2}}
    config = make_config(**DYNAMIC_SAMPLING | {"algorithm": {"advantage": falling}})
    with closing(Journal(tmp_path / "journal.db")) as journal:
        sampling = DynamicSampling(config=config, signal=Signal(config), journal=journal)
        verdicts = [sampling.judge(make_group(), step=step) for step in (0, 1, 2)]
    assert verdicts == [Verdict.KEEP, Verdict.KEEP, Verdict.DROP]


def test_a_malformed_group_is_retried_then_failed_with_its_reason(tmp_path: Path) -> None:
    with closing(Driver(tmp_path, rollout__max_attempts=2)) as driver:
        lease = running(driver)[0]
        still = driver.c.parts.watchdog.still(driver.now)
        driver.now += 5.0
        answer = driver.say(b"g", delivered(lease, token=VOCABULARY))
        assert wire.Ack(leases=[lease.id]) in answer
        (again,) = [g for g in leases(answer) if g.id == lease.id]
        assert again.attempt == 2
        driver.say(b"g", delivered(again, token=VOCABULARY))
        assert driver.journal.ended() == {
            f"malformed: token id {VOCABULARY} outside the vocabulary of {VOCABULARY}": 1
        }
        stood = driver.c.parts.watchdog.still(driver.now) - still
        assert stood == 5, "what is thrown away is no progress"


def test_weights_that_were_never_sent_are_malformed(tmp_path: Path) -> None:
    """What was sent is known after a coordinator died and a learner went back to a checkpoint."""
    with closing(Driver(tmp_path)) as driver:
        first, second, *_ = running(driver)
        driver.say(b"g", delivered(first, versions=(0, 1)))
        (reason,) = [row[0] for row in driver.journal._db.execute("SELECT reason FROM tries")]
        assert reason == "malformed: weights 1, newer than any that were sent (0)"
        driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
        driver.synced("g", version=1)
    with closing(Driver(tmp_path)) as driver:
        driver.say(b"l", REPLACE(LEARNER, incarnation="l2"))
        driver.say(b"g", REPLACE(GENERATOR, leases=[first.id, second.id]))
        driver.synced("g", version=0)
        driver.say(b"g", delivered(second, versions=(0, 2)), delivered(first, versions=(0, 1)))
        assert [r.id for r in driver.journal.leases("delivered")] == [first.id]


@pytest.mark.parametrize("n", [1, 3])
def test_a_group_of_the_wrong_size_is_malformed(driver: Driver, n: int) -> None:
    lease = running(driver)[0]
    driver.say(b"g", delivered(REPLACE(lease, group_size=n)))
    assert driver.journal.counts() == {"leased": len(running_ids(driver))}


def test_rewards_and_log_probabilities_without_end_do_no_harm(driver: Driver) -> None:
    first, second, *_ = running(driver)
    most = float(np.finfo(np.float32).max)
    group = make_group(prompt=(first.id,))
    huge = REPLACE(
        delivered(first), group=pack_group(replace(group, rewards=np.full(2, most, np.float32)))
    )
    driver.say(b"g", huge)
    (row,) = driver.journal.groups(purpose="train")
    assert row.reward == pytest.approx(most)
    endless = replace(group, logprobs=np.full_like(group.logprobs, -most))
    driver.say(b"g", REPLACE(delivered(second), group=pack_group(endless)))
    assert driver.c.rejected.count == 1


def test_a_group_that_rotted_in_the_journal_is_named(driver: Driver) -> None:
    granted = running(driver)
    while len(driver.journal.leases("delivered")) < 3:
        granted = leases(driver.say(b"g", *map(delivered, granted)))
    lease = driver.journal.leases("delivered")[0].id
    driver.journal._db.execute("UPDATE groups SET payload = x'c1' WHERE lease = ?", (lease,))
    crc = (zlib.crc32(b"\xc1"), lease)
    driver.journal._db.execute("UPDATE checksums SET crc32 = ? WHERE lease = ?", crc)
    with pytest.raises(
        JournalError, match=rf"lease {lease} in the journal .*journal\.db is damaged"
    ):
        driver.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
