"""A run of no steps: the model is evaluated as the engines loaded it, and there is no learner."""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rollout_groups import make_group
from simulated_config import make_config
from simulated_generator import VOCABULARY

from asyncds.fleet.membership import Health
from asyncds.rollout import wire
from asyncds.rollout.codec import pack_group
from asyncds.rollout.journal import Journal
from services.coordinator.coordinator import Coordinator
from services.coordinator.state import State

PEER = b"g:1"
HELLO = wire.GeneratorHello(
    name="g",
    incarnation="g1",
    protocol=wire.PROTOCOL,
    workers=1,
    capacity=8,
    tokenizer="t",
    data="d",
    rows={"train": 9, "eval": 3},
    multiplicity={"written": [2, 2, 2]},
    leases=[],
)


class Scene:
    """The coordinator of such a run, among peers that are lines of a test."""

    def __init__(self, journal: Journal) -> None:
        self.sent: list[tuple[bytes, wire.Message]] = []
        self.results: list[dict[str, Any]] = []
        self.now = 0.0
        self.coordinator = Coordinator(
            config=make_config(steps=0),
            journal=journal,
            send=lambda peer, message: self.sent.append((peer, message)),
            on_step=lambda metrics: None,
            on_evaluation=self.results.append,
            on_rewind=lambda: None,
            on_stall=lambda reason: None,
            on_broadcast=lambda outcome, now: None,
            now=0.0,
        )

    def says(self, message: Any, peer: bytes = PEER) -> None:
        self.now += 0.1
        self.coordinator.handle(peer, message, self.now)
        self.coordinator.tick(self.now)

    def heard(self, kind: type) -> list[Any]:
        return [message for _, message in self.sent if isinstance(message, kind)]

    def fulfil(self, lease: wire.Lease, *, version: int = 0, peer: bytes = PEER) -> None:
        group = make_group(
            n=lease.group_size,
            versions=(version,),
            prompt=(lease.id,),
            correct=(True,) * lease.group_size,
        )
        self.says(
            wire.Delivered(
                lease=lease.id,
                attempt=lease.attempt,
                group=pack_group(group),
                sample_seconds=1.0,
                score_seconds=0.1,
            ),
            peer,
        )


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with closing(Journal(tmp_path / "journal.db")) as journal, journal.transaction():
        yield journal


def test_it_is_evaluated_once_and_finished(journal: Journal) -> None:
    scene = Scene(journal)
    run = scene.coordinator
    run.tick(0.0)
    assert run.state is State.STARTING
    assert run.waiting_for() == "everybody waits for a generator to join"
    scene.says(HELLO)
    assert [m.health for m in run.fleet] == [Health.HEALTHY]
    granted = [lease for grant in scene.heard(wire.Grant) for lease in grant.leases]
    assert [lease.purpose for lease in granted] == ["eval"] * 3
    for lease in granted:
        assert not run.state.final
        scene.fulfil(lease)
    assert [(r["version"], r["step"], r["n_problems"]) for r in scene.results] == [(0, 0, 3)]
    assert scene.results[0]["pass@k"]["1"] == 1.0
    assert (run.state, run.found_finished) == (State.FINISHED, False)
    assert scene.heard(wire.Drain)
    assert not scene.heard(wire.Prepare)

    resumed = Scene(journal).coordinator
    resumed.tick(0.0)
    assert (resumed.state, resumed.found_finished) == (State.FINISHED, True)


def test_a_generator_that_comes_later_serves_too(journal: Journal) -> None:
    scene = Scene(journal)
    scene.says(HELLO)
    first, *others = scene.heard(wire.Grant)[0].leases
    scene.fulfil(first)
    scene.says(wire.Bye(leases=[lease.id for lease in others], reason="preempted"))
    assert not scene.coordinator.fleet.alive()
    scene.sent.clear()
    scene.says(msgspec.structs.replace(HELLO, name="h", incarnation="h1"), b"h:1")
    for grant in scene.heard(wire.Grant):
        for lease in grant.leases:
            scene.fulfil(lease, peer=b"h:1")
    assert scene.coordinator.state is State.FINISHED
    assert scene.results[0]["n_problems"] == 3


def test_a_group_of_other_weights_is_refused(journal: Journal) -> None:
    scene = Scene(journal)
    scene.says(HELLO)
    lease = scene.heard(wire.Grant)[0].leases[0]
    scene.fulfil(lease, version=1)
    assert scene.coordinator.leases.round is not None
    assert scene.coordinator.leases.round.owns(lease.id)


def test_a_learner_is_refused(journal: Journal) -> None:
    scene = Scene(journal)
    scene.says(
        wire.LearnerHello(
            name="learner-0",
            incarnation="l1",
            protocol=wire.PROTOCOL,
            rank=0,
            ranks=1,
            step=0,
            tokenizer="t",
            vocab_size=VOCABULARY,
        ),
        b"l:1",
    )
    assert [m.reason for m in scene.heard(wire.Refused)] == [
        "this run trains nothing (steps is 0) and has no learner"
    ]
