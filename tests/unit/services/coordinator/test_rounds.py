"""Evaluations under way: on pinned weights, of the base model first, made again if lost."""

from contextlib import closing
from pathlib import Path

from asyncds.protocol import wire
from asyncds.protocol.codec import pack_group
from asyncds.protocol.state import State
from tests.simulation.simulated_config import make_config
from tests.simulation.simulation import Simulation
from tests.support.coordinator_fixture import (
    GENERATOR,
    LEARNER,
    REPLACE,
    Driver,
    delivered,
    leases,
    only,
    running,
)
from tests.support.rollout_groups import make_group


def test_weights_stay_put_while_an_evaluation_is_open(driver: Driver) -> None:
    granted = running(driver, evaluate=False)
    round = driver.c.parts.leases.round
    assert round is not None
    driver.say(b"l", wire.LearnerHeartbeat(rank=0, staged=1, checkpoint=-1, phase=""))
    assert driver.c.parts.weights.current is None
    for lease in [g for g in granted if g.split == "eval"]:
        granted += leases(driver.say(b"g", delivered(lease)))
        assert driver.c.parts.weights.current is None
    for lease in [g for g in granted if g.split == "eval"]:
        driver.say(b"g", delivered(lease))
    assert driver.c.parts.leases.round is None
    driver.tick(b"l")
    assert driver.c.parts.weights.current is not None
    (result,) = driver.journal.evaluations()
    assert (result.version, result.n_problems, result.pass_at_k["1"]) == (0, 3, 0.0)


def test_whoever_dies_the_base_model_is_evaluated_first(tmp_path: Path) -> None:
    sim = Simulation(tmp_path, config=make_config())

    def half_done() -> bool:
        round = sim.coordinator and sim.coordinator.parts.leases.round
        return round is not None and 0 < round.done < round.total

    sim.run(limit=100, until=half_done)
    sim.kill_coordinator(back_after=5)
    sim.run(limit=100, until=half_done)
    for generator in sim.generators.values():
        sim.kill(generator, back_after=5)
    sim.turn()
    sim.run(limit=100, until=half_done)
    assert sim.learner is not None
    sim.kill(sim.learner, back_after=5)
    sim.turn()
    sim.run(limit=300)
    assert sim.coordinator is not None
    assert sim.coordinator.state is State.FINISHED
    evaluated = [(e.version, e.step) for e in sim.journal.evaluations()]
    assert (evaluated[0], evaluated[-1]) == ((0, 0), (6, 6))


def test_a_generator_that_dies_costs_the_parts_it_worked_on(tmp_path: Path) -> None:
    """Each problem's 8 samples are four leases; a simulation with sockets' peers, no engine."""
    config = make_config(
        eval={"n_problems": 3, "n_samples": 8, "pass_at": [8]}, sampling={"max_tokens": 500_000}
    )
    sim = Simulation(tmp_path, config=config, generators=2)

    def half_done() -> bool:
        round = sim.coordinator and sim.coordinator.parts.leases.round
        return round is not None and 0 < round.done < round.total

    sim.run(limit=100, until=half_done)
    assert sim.coordinator is not None
    table = sim.coordinator.parts.leases.open
    assert sim.coordinator.parts.leases.round is not None
    assert sim.coordinator.parts.leases.round.total == 12
    dying = next(g for g in sim.generators.values() if table.leases_of(g.name))
    lost = {entry.id for entry in table.held_by(dying.name)}
    delivered_before = {g.lease for g in sim.journal.groups(purpose="eval")}
    sim.kill(dying, back_after=50)
    sim.run(limit=300)
    assert sim.coordinator.state is State.FINISHED
    base, *_, result = sim.journal.evaluations()
    for evaluation in (base, result):
        assert (evaluation.n_problems, list(evaluation.pass_at_k)) == (3, ["8"])
        assert [n for _, n, _ in sim.journal.evaluation_counts(evaluation.id)] == [8, 8, 8]
        assert {name: its.n_problems for name, its in evaluation.sets.items()} == {
            "hard": 1,
            "easy": 2,
        }
    repeated = {
        row.id for row in sim.journal.leases("delivered", purpose="eval") if row.attempt > 1
    }
    assert lost <= repeated
    assert not repeated & delivered_before


def test_an_evaluation_on_other_weights_is_malformed(driver: Driver) -> None:
    granted = running(driver, evaluate=False)
    lease = next(g for g in granted if g.split == "eval")
    driver.say(b"g", delivered(lease, versions=(0, 1)))
    again = driver.journal.leases("leased", purpose="eval")
    assert [r.attempt for r in again if r.id == lease.id] == [2]


def test_answers_under_an_equivalence_nobody_named_are_malformed(driver: Driver) -> None:
    granted = running(driver, evaluate=False)
    lease = next(g for g in granted if g.split == "eval")
    group = make_group(n=lease.group_size, prompt=(lease.id,))
    group.answers["loose"] = group.answers.pop("written")
    message = wire.Delivered(
        lease=lease.id,
        attempt=lease.attempt,
        group=pack_group(group),
    )
    driver.say(b"g", message)
    again = driver.journal.leases("leased", purpose="eval")
    assert [r.attempt for r in again if r.id == lease.id] == [2]


def test_a_generator_without_the_evaluated_split_is_refused(tmp_path: Path) -> None:
    with closing(
        Driver(tmp_path, eval__split="validation", task={"kind": "countdown", "n_validation": 2})
    ) as driver:
        (refused,) = only(driver.say(b"g", GENERATOR), wire.Refused)
        assert "no rows in the split 'validation'" in refused.reason


def test_an_evaluation_nobody_can_finish_is_given_up_and_made_again(
    driver: Driver,
) -> None:
    running(driver, evaluate=False)
    driver.say(b"g", wire.Bye())
    assert driver.c.parts.leases.round is None
    assert driver.journal.counts("eval") == {"failed": 3}
    driver.say(b"g2", REPLACE(GENERATOR, incarnation="g2"))
    # 0 is published already; who comes gets it at once.
    sync = driver.c.parts.weights.current
    assert sync is not None


def test_a_learners_restart_drops_the_evaluation_of_the_other_learner(
    driver: Driver,
) -> None:
    running(driver, evaluate=False)
    driver.say(b"m", REPLACE(LEARNER, incarnation="l2"))
    assert driver.c.parts.leases.round is None
    assert driver.journal.counts("eval") == {"failed": 3}


def test_a_learner_is_told_that_an_evaluation_is_under_way(driver: Driver) -> None:
    granted = running(driver, evaluate=False)
    beat = wire.LearnerHeartbeat(rank=0, staged=0, checkpoint=-1, phase="")
    assert only(driver.say(b"l", beat), wire.LearnerAck)[0].evaluating
    while granted := [lease for lease in granted if lease.split == "eval"]:
        granted = leases(driver.say(b"g", *map(delivered, granted)))
    assert not only(driver.say(b"l", beat), wire.LearnerAck)[0].evaluating
