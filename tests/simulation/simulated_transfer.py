"""A simulated collective: the broadcast of weights."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from asyncds.protocol import wire
from tests.simulation.simulated_generator import SimGenerator, Weights
from tests.simulation.simulated_learner import SimLearner

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

PROBE = np.array([-1.0], "<f4").tobytes()
WRONG_PROBE = np.array([-3.0], "<f4").tobytes()


@dataclass(kw_only=True)
class Transfer:
    """A collective: everybody in it gets through if everybody enters and lives, or nobody."""

    sim: "Simulation"
    sync: int
    size: int
    deadline: float
    entered: dict["SimGenerator | SimLearner", None] = field(default_factory=dict)
    version: int = -1

    def enter(self, end: "SimGenerator | SimLearner") -> None:
        self.entered[end] = None
        if isinstance(end, SimLearner):
            self.version = end.staged
        if len(self.entered) == 1:
            self.sim.after(self.deadline, self.close)
        if len(self.entered) == self.size:
            self.sim.after(0.3, self.close)

    def close(self) -> None:
        if self.sim.transfers.pop(self.sync, None) is None:
            return
        whole = len(self.entered) == self.size and all(self.sim.lives(e) for e in self.entered)
        learner = next((e for e in self.entered if isinstance(e, SimLearner)), None)
        for end in self.entered:
            if not self.sim.lives(end):
                continue
            if not whole or learner is None:
                link = end if isinstance(end, SimGenerator) else end.ranks[0]
                kept = isinstance(end, SimGenerator) and end.weights is not None
                link.send(wire.SyncFailed(sync=self.sync, reason="timed out", kept=kept))
            elif isinstance(end, SimLearner):
                end.ranks[0].send(
                    wire.Sent(
                        sync=self.sync,
                        checksums=end.checksums(),
                        probe=PROBE,
                        seconds=0.3,
                    )
                )
            else:
                self._receive(end, learner)

    def _receive(self, generator: SimGenerator, learner: SimLearner) -> None:
        checksums = [0] if self.sim.faulty(self.sim.faults.corrupt) else learner.checksums()
        if checksums != generator.expected:
            kept = generator.weights is not None
            generator.send(wire.SyncFailed(sync=self.sync, reason="other checksums", kept=kept))
            return
        breaks = self.sim.faults.break_engine
        if breaks and self.sim.faulty(breaks):
            generator.update(None)
            generator.send(wire.SyncFailed(sync=self.sync, reason="could not be loaded"))
            return
        # Without a probe nobody could know.
        wrong = generator.probed and self.sim.faulty(self.sim.faults.miscompute)
        generator.update(
            Weights(
                incarnation=learner.incarnation,
                version=self.version,
                wrong=self.sync if wrong else None,
            )
        )
        generator.send(
            wire.Applied(
                sync=self.sync,
                checksums=checksums,
                probe=WRONG_PROBE if wrong else PROBE,
                pause_seconds=0.1,
            )
        )
