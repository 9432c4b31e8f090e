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
from services.coordinator.dynamic_sampling import DynamicSampling, Verdict
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_generator import VOCABULARY
from tests.support.coordinator_fixture import (
    DYNAMIC_SAMPLING,
    GENERATOR,
    LEARNER,
    REPLACE,
    Desk,
    delivered,
    leases,
    only,
    running,
    running_ids,
)
from tests.support.rollout_groups import make_group


def test_delivered_twice_is_acknowledged_twice_and_kept_once(desk: Desk) -> None:
    lease = running(desk)[0]
    for _ in range(2):
        assert wire.Ack(leases=[lease.id]) in desk.say(b"g", delivered(lease))
    assert desk.journal.counts()["delivered"] == 1
    assert desk.c.parts.leases.counts.events["duplicate"] == 1


def test_a_group_without_signal_is_dropped_and_another_prompt_comes(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, **DYNAMIC_SAMPLING)) as desk:
        first, second, *_ = granted = running(desk)
        answer = desk.say(b"g", delivered(first), delivered(second, correct=(True, False)))
        acks = only(answer, wire.Ack)
        assert acks == [wire.Ack(leases=[first.id]), wire.Ack(leases=[second.id])]
        assert desk.journal.ended() == {"zero_signal": 1}
        assert [r.id for r in desk.journal.leases("delivered")] == [second.id]
        assert desk.c.parts.leases.counts.dropped == {"zero_signal": 1}
        assert desk.c.parts.leases.counts.events["kept_without_signal"] == 0
        assert {new.row for new in leases(answer)}.isdisjoint({g.row for g in granted})
        assert wire.Ack(leases=[first.id]) in desk.say(b"g", delivered(first)), "known already"


def test_a_hopeless_task_does_not_starve_the_learner(tmp_path: Path) -> None:
    """Across restarts: what was dropped for this batch is not forgotten."""
    verdicts = []
    for _ in range(4):
        with closing(Journal(tmp_path / "journal.db")) as journal:
            sampling = DynamicSampling(config=make_config(**DYNAMIC_SAMPLING), journal=journal)
            verdicts += [sampling.judge(make_group(), step=0) for _ in range(2)]
    drop, excused = Verdict.DROP, Verdict.EXCUSED
    assert verdicts == [drop, drop, drop, excused, excused, excused, drop, drop]


def test_a_group_is_judged_by_what_is_in_force_for_the_next_batch(tmp_path: Path) -> None:
    falling = {"kind": "ds_grpo", "gamma_n": {"start": 1.0, "end": 0.0, "steps": 2}}
    config = make_config(**DYNAMIC_SAMPLING | {"algorithm": {"advantage": falling}})
    with closing(Journal(tmp_path / "journal.db")) as journal:
        sampling = DynamicSampling(config=config, journal=journal)
        verdicts = [sampling.judge(make_group(), step=step) for step in (0, 1, 2)]
    assert verdicts == [Verdict.KEEP, Verdict.KEEP, Verdict.DROP]


def test_a_malformed_group_is_retried_then_failed_with_its_reason(tmp_path: Path) -> None:
    with closing(Desk(tmp_path, rollout__max_attempts=2)) as desk:
        lease = running(desk)[0]
        still = desk.c.parts.watchdog.still(desk.now)
        desk.now += 5.0
        answer = desk.say(b"g", delivered(lease, token=VOCABULARY))
        assert wire.Ack(leases=[lease.id]) in answer
        (again,) = [g for g in leases(answer) if g.id == lease.id]
        assert again.attempt == 2
        desk.say(b"g", delivered(again, token=VOCABULARY))
        assert desk.journal.ended() == {
            f"malformed: token id {VOCABULARY} outside the vocabulary of {VOCABULARY}": 1
        }
        stood = desk.c.parts.watchdog.still(desk.now) - still
        assert stood == 5, "what is thrown away is no progress"


def test_weights_that_were_never_sent_are_malformed(tmp_path: Path) -> None:
    """What was sent is known after a coordinator died and a learner went back to a checkpoint."""
    with closing(Desk(tmp_path)) as desk:
        first, second, *_ = running(desk)
        desk.say(b"g", delivered(first, versions=(0, 1)))
        (reason,) = [row[0] for row in desk.journal._db.execute("SELECT reason FROM tries")]
        assert reason == "malformed: weights 1, newer than any that were sent (0)"
        desk.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
        desk.synced("g", version=1)
    with closing(Desk(tmp_path)) as desk:
        desk.say(b"l", REPLACE(LEARNER, incarnation="l2"))
        desk.say(b"g", REPLACE(GENERATOR, leases=[first.id, second.id]))
        desk.synced("g", version=0)
        desk.say(b"g", delivered(second, versions=(0, 2)), delivered(first, versions=(0, 1)))
        assert [r.id for r in desk.journal.leases("delivered")] == [first.id]


@pytest.mark.parametrize("n", [1, 3])
def test_a_group_of_the_wrong_size_is_malformed(desk: Desk, n: int) -> None:
    lease = running(desk)[0]
    desk.say(b"g", delivered(REPLACE(lease, group_size=n)))
    assert desk.journal.counts() == {"leased": len(running_ids(desk))}


def test_rewards_and_log_probabilities_without_end_do_no_harm(desk: Desk) -> None:
    first, second, *_ = running(desk)
    most = float(np.finfo(np.float32).max)
    group = make_group(prompt=(first.id,))
    huge = REPLACE(
        delivered(first), group=pack_group(replace(group, rewards=np.full(2, most, np.float32)))
    )
    desk.say(b"g", huge)
    (row,) = desk.journal.groups(purpose="train")
    assert row.reward == pytest.approx(most)
    endless = replace(group, logprobs=np.full_like(group.logprobs, -most))
    desk.say(b"g", REPLACE(delivered(second), group=pack_group(endless)))
    assert desk.c.rejected.count == 1


def test_a_group_that_rotted_in_the_journal_is_named(desk: Desk) -> None:
    granted = running(desk)
    while len(desk.journal.leases("delivered")) < 3:
        granted = leases(desk.say(b"g", *map(delivered, granted)))
    lease = desk.journal.leases("delivered")[0].id
    desk.journal._db.execute("UPDATE groups SET payload = x'c1' WHERE lease = ?", (lease,))
    crc = (zlib.crc32(b"\xc1"), lease)
    desk.journal._db.execute("UPDATE checksums SET crc32 = ? WHERE lease = ?", crc)
    with pytest.raises(
        JournalError, match=rf"lease {lease} in the journal .*journal\.db is damaged"
    ):
        desk.say(b"l", wire.BatchRequest(rank=0, step=0, report={}))
