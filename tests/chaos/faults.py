"""Which faults are made, in which order: a plan that follows from a seed."""

import random
import signal
from dataclasses import dataclass
from itertools import product
from typing import get_args

from tests.chaos.phases import PhaseName

ROLES = ("coordinator", "generator", "learner")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A signal to a role while something goes on. pause: after a SIGSTOP, the seconds until
    SIGCONT; None: it stays stopped, until the system itself ends it."""

    role: str
    phase: PhaseName
    signal: signal.Signals
    pause: float | None = None

    @property
    def name(self) -> str:
        """In a few words."""
        if self.signal is not signal.SIGSTOP:
            return self.signal.name
        return "SIGSTOP, left" if self.pause is None else f"SIGSTOP, {self.pause:.0f} s"


def make_plan(n: int, *, seed: int, pauses: tuple[float, float]) -> list[Fault]:
    """`n` faults. Each nine in a row have every signal to every role; of each 72 in a row that
    begin at a multiple of 72, every one is in another phase.

    pauses: the shortest and longest pause. Every second round of nine stays stopped instead.
    """
    rng = random.Random(seed)
    plan: list[Fault] = []
    while len(plan) < n:
        orders = {pair: rng.sample(PHASES, len(PHASES)) for pair in product(ROLES, SIGNALS)}
        for number in range(len(PHASES)):
            for role, sent in rng.sample(list(orders), len(orders)):
                paused = sent is signal.SIGSTOP and number % 2 == 0
                plan.append(
                    Fault(
                        role=role,
                        phase=orders[role, sent][number],
                        signal=sent,
                        pause=rng.uniform(*pauses) if paused else None,
                    )
                )
    return plan[:n]
