"""Runs drawn from a seed: how many generators, what settings, what goes wrong."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

from asyncds.config.schema import RunConfig
from asyncds.protocol.state import State
from tests.simulation.simulated_config import SAMPLED, make_config
from tests.simulation.simulated_faults import Faults
from tests.simulation.simulated_links import Links
from tests.simulation.simulation import Simulation

LIMIT = 1500.0
"""Simulated seconds within which a run has come to its end."""
WORST = Faults(
    drop=0.1,
    double=0.1,
    overtake=0.1,
    cut=0.02,
    kill_generator=0.04,
    kill_learner=0.02,
    kill_coordinator=0.06,
    bad_group=0.06,
    failed_lease=0.06,
    corrupt=0.1,
    break_engine=0.1,
    miscompute=0.1,
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run."""

    seed: int
    generators: int
    faults: Faults
    config: RunConfig

    def __str__(self) -> str:
        c, wrong = self.config, {k: v for k, v in asdict(self.faults).items() if v}
        return (
            f"seed {self.seed}: {self.generators} generators, {c.learner.ranks} ranks, "
            f"{c.steps} steps, max_lag {c.rollout.max_lag}, publish_every "
            f"{c.weights.publish_every}, faults {wrong}"
        )

    def start(self, directory: Path, links: Links) -> Simulation:
        """The run, at its first moment."""
        return Simulation(
            directory,
            config=self.config,
            generators=self.generators,
            faults=self.faults,
            seed=self.seed,
            links=links,
        )


def draw(seed: int) -> Scenario:
    """Any of the settings, with some of the faults, each up to its worst."""
    rng = random.Random(f"scenario {seed}")
    kinds = [kind for kind, worst in asdict(WORST).items() if worst < 1]
    chosen = rng.sample(kinds, rng.randint(0, len(kinds)))
    faults = Faults(
        **{kind: rng.random() * getattr(WORST, kind) for kind in chosen},
        until=rng.uniform(30, 120),
    )
    publish_every = rng.randint(1, 2)
    config = make_config(
        steps=publish_every * rng.randint(2, 4),
        rollout__max_lag=rng.randint(0, 3),
        rollout__groups_per_step=rng.randint(1, 5),
        rollout__dynamic_sampling={"enabled": rng.random() < 0.5, "max_dropped": rng.randint(1, 2)},
        learner__ranks=rng.randint(1, 2),
        weights__publish_every=publish_every,
        checkpoint={"every": rng.randint(1, 3)},
        # Evaluations with a lease for each problem, or for each sample.
        sampling={"max_tokens": rng.choice((8, 1_000_000))},
        **SAMPLED,
    )
    return Scenario(seed=seed, generators=rng.randint(1, 12), faults=faults, config=config)


def finished(sim: Simulation) -> None:
    """It came to a good end: every step trained, recorded and in a checkpoint, and evaluated."""
    coordinator, config = sim.coordinator, sim.config
    assert coordinator is not None
    assert (coordinator.state, coordinator.message) == (State.FINISHED, "")
    assert sorted(sim.timeline) == list(range(config.steps))
    assert sim.checkpoint == config.steps
    counts = sim.journal.counts()
    batches = config.steps * config.rollout.groups_per_step
    assert counts.get("consumed", 0) + counts.get("committed", 0) == batches
    for step, leases in sim.timeline.items():
        assert {g.lease for g in sim.journal.groups(step=step)} == leases
    steps = [r.step + 1 for r in sim.journal.steps()]
    # The metrics of a step are lost if who reports or records them dies just after its checkpoint.
    assert steps == sorted(set(steps))
    if not sim.faults.kill_learner and not sim.faults.kill_coordinator:
        assert steps == [s + 1 for s in range(config.steps)]
    evaluated = [e.step for e in sim.journal.evaluations()]
    assert evaluated == sorted(set(evaluated))
    every = config.weights.publish_every
    assert evaluated[-1] == config.steps // every * every
