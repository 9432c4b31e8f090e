"""The coordinator's spans, as a real collector gets them, of runs among simulated peers."""

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from asyncds.config.operation import TracesConfig
from asyncds.rollout.journal import Journal
from asyncds.telemetry.traces.traces import Traces
from services.coordinator.traces import open_journal
from tests.simulation.simulated_config import make_config
from tests.simulation.simulated_faults import Faults
from tests.simulation.simulation import Simulation
from tests.support.otlp_collector import Collector, Seen, collecting, traced

FAULTS = Faults(
    drop=0.05,
    double=0.05,
    failed_lease=0.1,
    bad_group=0.05,
    kill_generator=0.03,
    kill_learner=0.02,
    corrupt=0.1,
    until=60,
)
AGED, BEREAVED = 16, 2
"""Seeds: of a run with groups that became too old, and of one whose generators died at work."""
Run = tuple[Simulation, Collector]


def simulate(path: Path, *, faults: Faults, seed: int = 0) -> Run:
    with collecting() as collector:
        config = TracesConfig(endpoint=collector.endpoint)
        traces = Traces(config, run="r", role="coordinator", name="coordinator")
        sim = Simulation(
            path, config=make_config(steps=8), faults=faults, seed=seed, traces=traces, generators=3
        )
        sim.run(limit=1500)
        traces.close()
    return sim, collector


@pytest.fixture(scope="module", params=(AGED, BEREAVED))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = simulate(tmp_path_factory.mktemp("run"), faults=FAULTS, seed=request.param)
    journal = run[0].journal
    if request.param == AGED:
        assert journal.leases("evicted")
    else:
        assert journal._db.execute("SELECT 1 FROM tries WHERE outcome = 'died'").fetchone()
    return run


def named(spans: list[Seen], name: str) -> list[Seen]:
    return [span for span in spans if span.name == name]


def test_every_lease_is_told_from_its_grant_to_its_end(run: Run) -> None:
    sim, collector = run
    told = collector.of("lease")
    journal = sim.journal
    training = journal.leases("committed", "evicted", "failed")
    for row in training:
        [root] = [span for span in told[row.id] if not span.parent]
        of = root.attributes
        assert (root.name, of["state"], of["purpose"]) == ("lease", row.state, "train")
        assert (of["row"], of["attempt"], of.get("step")) == (row.row, row.attempt, row.step)
        assert (of.get("oldest"), of.get("generator")) == (row.oldest, row.generator)
    for group in journal.groups(states=["committed"]):
        of = told[group.lease][0].attributes
        assert (of["newest"], of["tokens"], of["lag"]) == (group.newest, group.tokens, group.lag)
        assert of["reward"] == group.reward
        assert of["checkpoint"] > of["step"]
    ended = {row.id for row in training}
    ended |= {g.lease for g in journal.groups(purpose="eval", states=["delivered"])}
    roots = {lease: [s for s in spans if not s.parent] for lease, spans in told.items()}
    assert {lease for lease, found in roots.items() if found} >= ended
    assert all(len(found) <= 1 for found in roots.values())


def test_spans_lie_in_their_parents_and_follow_each_other(run: Run) -> None:
    sim, collector = run
    committed = {row.id for row in sim.journal.leases("committed")}
    assert committed
    for lease, spans in collector.of("lease").items():
        root, *inside = spans
        if root.parent:
            continue  # the lease has not ended
        assert all(span.parent == root.id for span in inside)
        assert all(root.start <= span.start <= span.end <= root.end for span in inside)
        attempts = named(spans, "attempt")
        assert all(a.end <= b.start for a, b in itertools.pairwise(attempts))
        if lease in committed:
            [journaled] = named(spans, "journal")
            # Each batch of a learner that died is another; that of the last one was trained.
            buffered, batched = named(spans, "buffered"), named(spans, "batched")
            assert attempts[-1].attributes["outcome"] in ("delivered", "cancelled")
            assert attempts[-1].start <= journaled.start <= buffered[0].end <= batched[0].start
            assert all(a.end <= b.start for a, b in itertools.pairwise(buffered))
            assert batched[-1].attributes["step"] == root.attributes["step"]
            assert buffered[-1].attributes["lag"] == root.attributes["lag"]


def test_attempts_that_failed_say_why(run: Run) -> None:
    sim, collector = run
    told = {
        (lease, span.attributes["attempt"]): (span.attributes["outcome"], span.error)
        for lease, spans in collector.of("lease").items()
        for span in named(spans, "attempt")
        if span.attributes["outcome"] not in ("delivered", "cancelled")
    }
    recorded = {
        (lease, attempt): (outcome, reason)
        for lease, attempt, outcome, reason in sim.journal._db.execute(
            "SELECT lease, attempt, outcome, reason FROM tries"
        )
    }
    assert told == recorded
    assert {outcome for outcome, _ in told.values()} <= {"failed", "died"}


def test_a_coordinator_that_dies_leaves_traces_that_go_on(tmp_path: Path) -> None:
    """What was not committed is not told; a lease has its root although another made it."""
    faults = replace(FAULTS, kill_coordinator=0.3)
    sim, collector = simulate(tmp_path, faults=faults)
    assert int(sim.journal.meta("starts") or 0) > 3
    told = collector.of("lease")
    for row in sim.journal.leases("committed"):
        [root] = [span for span in told[row.id] if not span.parent]
        assert root.attributes["state"] == "committed"
        assert all(s.parent in ("", root.id) for s in told[row.id])
        assert len(named(told[row.id], "journal")) <= 1


def test_broadcasts_say_who_agreed_and_who_was_verified(run: Run) -> None:
    sim, collector = run
    broadcasts = collector.of("broadcast")
    for prepare, root, transfer in (
        (named(s, "prepare"), named(s, "broadcast"), named(s, "transfer"))
        for s in broadcasts.values()
    ):
        assert len(prepare) == len(root) == 1
        assert prepare[0].start == root[0].start
        assert prepare[0].parent == root[0].id
        assert [t.start for t in transfer] == [prepare[0].end] * len(transfer)
        assert bool(root[0].error) == (
            set(root[0].attributes["verified"]) != set(root[0].attributes["members"])
        )
        if transfer:
            assert set(prepare[0].attributes["agreed"]) == {
                "learner",
                *root[0].attributes["members"],
            }
    assert sim.coordinator is not None
    verified = [s for s in broadcasts.values() if named(s, "broadcast")[0].attributes["verified"]]
    assert len(verified) == sim.coordinator.parts.weights.figures.results["ok"]
    assert any(s.error for b in broadcasts.values() for s in b)


@contextmanager
def recording(path: Path) -> Iterator[tuple[Journal, Collector]]:
    """A journal with an open transaction and two delivered groups, leases 1 and 2."""
    with traced("coordinator") as (traces, collector):
        journal = open_journal(path / "journal.db", traces)
        with closing(journal):
            with journal.transaction():
                for lease in (1, 2):
                    journal.add_lease(id=lease, purpose="train", row=0, attempt=1, evaluation=None)
                    journal.granted(lease, "g", 1)
                    journal.deliver(
                        lease=lease,
                        generator="g",
                        oldest=0,
                        newest=0,
                        n=1,
                        n_correct=1,
                        reward=1.0,
                        tokens=3,
                        payload=b"samples",
                    )
            yield journal, collector


def test_what_was_rolled_back_is_not_told(tmp_path: Path) -> None:
    with recording(tmp_path) as (journal, collector):
        journal.begin()
        journal.end_lease(1, "evicted", "stale")
        journal._db.execute("ROLLBACK")
        with journal.transaction():
            journal.end_lease(2, "evicted", "stale")
    told = collector.of("lease")
    assert (named(told[1], "lease"), len(named(told[2], "lease"))) == ([], 1)


def test_a_checkpoint_may_be_the_first_word_of_a_trained_batch(tmp_path: Path) -> None:
    with recording(tmp_path) as (journal, collector), journal.transaction():
        for step in (0, 1):
            journal.batch(step, 0, [step + 1])
            if step == 0:
                journal.consume(step)
        journal.checkpointed(2)
        journal.consume(1)
    for lease, spans in collector.of("lease").items():
        [root], [batched] = named(spans, "lease"), named(spans, "batched")
        assert batched.attributes["step"] == root.attributes["step"] == lease - 1
        assert (root.attributes["checkpoint"], batched.end <= root.end) == (2, True)


def test_what_is_trained_again_waits_from_then_on(tmp_path: Path) -> None:
    with recording(tmp_path) as (journal, collector), journal.transaction():
        for _ in range(2):
            journal.batch(0, 0, [1])
            journal.consume(0)
            journal.rewind(0)
    spans = collector.of("lease")[1]
    [first, again], [trained, _] = named(spans, "buffered"), named(spans, "batched")
    assert first.end <= trained.end <= again.start
