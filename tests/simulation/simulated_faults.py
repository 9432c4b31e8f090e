"""What goes wrong in a simulated run, and how often."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities per message, per lease, per update or per second.

    drop, double, overtake: a message is lost, comes twice, is late by up to 3 s. cut: a
    connection breaks, and nothing passes for 0.5 to 12 s. kill_*: a process dies at once.
    bad_group: a group is malformed. failed_lease: a generator can't fulfil a lease. corrupt: other
    bytes arrive in an update than were sent. break_engine: an engine can't load what arrived, and
    stands still. miscompute: one computes something else with the right bytes. until: messages
    arrive and processes live from this second on.
    """

    drop: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    cut: float = 0.0
    kill_generator: float = 0.0
    kill_learner: float = 0.0
    kill_coordinator: float = 0.0
    bad_group: float = 0.0
    failed_lease: float = 0.0
    corrupt: float = 0.0
    break_engine: float = 0.0
    miscompute: float = 0.0
    until: float = float("inf")


CALM = {"drop": 0.02, "double": 0.02}
PLANS = {
    "nothing": Faults(),
    "a lossy network": Faults(drop=0.1, double=0.1, overtake=0.1, cut=0.02, until=120),
    "generators die": Faults(**CALM, kill_generator=0.05, until=120),
    "the learner dies": Faults(**CALM, kill_learner=0.04, until=120),
    "the coordinator dies": Faults(**CALM, kill_coordinator=0.1, until=120),
    "bad work": Faults(
        bad_group=0.1,
        failed_lease=0.1,
        corrupt=0.1,
        break_engine=0.1,
        miscompute=0.1,
        until=120,
    ),
    "everything": Faults(
        drop=0.03,
        double=0.03,
        overtake=0.03,
        cut=0.01,
        kill_generator=0.02,
        kill_learner=0.01,
        kill_coordinator=0.03,
        bad_group=0.03,
        failed_lease=0.03,
        corrupt=0.03,
        break_engine=0.03,
        miscompute=0.03,
        until=150,
    ),
}
