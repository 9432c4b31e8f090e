"""Which faults of the network are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tests.chaos.phases import PhaseName

ROLES = ("generator", "learner", "coordinator")
PHASES: tuple[PhaseName, ...] = ("sampling", "broadcast")
CUTS = (1.0, 10.0, 60.0)
DELAY, LOSS = 0.2, 0.05


@dataclass(frozen=True, kw_only=True)
class NetworkFault:
    """What befalls the cable of a role's machine. cut: seconds that it is pulled; or else delay:
    seconds that each frame is late, in each direction, and loss: the share that is lost, until the
    run has made some progress in spite of it."""

    role: str
    phase: PhaseName
    cut: float = 0.0
    delay: float = 0.0
    loss: float = 0.0

    @property
    def name(self) -> str:
        """In a few words."""
        if self.cut:
            return f"down for {self.cut:g} s"
        return f"{self.delay * 1000:g} ms late" if self.delay else f"{self.loss:.0%} lost"


def matrix(roles: Sequence[str] = ROLES) -> list[NetworkFault]:
    """Every fault in every phase, role by role."""
    kinds = [{"cut": cut} for cut in CUTS] + [{"delay": DELAY}, {"loss": LOSS}]
    return [
        NetworkFault(role=role, phase=phase, **kind)
        for role, kind, phase in product(roles, kinds, PHASES)
    ]
