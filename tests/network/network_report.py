"""What became of each fault of the network, as JSON and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.network.network_faults import NetworkFault


@dataclass(frozen=True, kw_only=True)
class NetworkOutcome:
    """A fault and what came of it. All times in seconds.

    reached: whether the phase was seen when the fault was made. step: batches trained when it was
    over. recovery_seconds: until everybody was well, and then a batch was trained; from the cable's
    being plugged in again, or, where it was bad, from the fault's beginning, while it lasted.
    stall_seconds: the longest time without a trained batch. rejoined: how often the generator was
    given up and joined again, with the engine that it had.
    """

    fault: NetworkFault
    reached: bool
    step: int
    recovery_seconds: float
    stall_seconds: float
    rejoined: int


def write_network_report(
    run_dir: Path, outcomes: Sequence[NetworkOutcome], *, deadlines: dict[str, float]
) -> str:
    """Write network.json and network.md into the run directory; returns the latter."""
    rows = [asdict(o) | {"name": o.fault.name} for o in outcomes]
    (run_dir / "network.json").write_text(
        json.dumps({"deadlines": deadlines, "faults": rows}, indent=1)
    )
    lines = [
        "| # | machine | its cable | during | in it | step | recovery, s | stall, s | rejoined |",
        "|--:|---|---|---|---|--:|--:|--:|--:|",
    ]
    for number, o in enumerate(outcomes, start=1):
        lines.append(
            f"| {number} | {o.fault.role} | {o.fault.name} | {o.fault.phase} "
            f"| {'yes' if o.reached else ''} | {o.step} | {o.recovery_seconds:.1f} "
            f"| {o.stall_seconds:.1f} | {o.rejoined or ''} |"
        )
    limits = ", ".join(f"{name} {seconds:g} s" for name, seconds in deadlines.items())
    lines += ["", f"Deadlines: {limits}."]
    text = "\n".join(lines) + "\n"
    (run_dir / "network.md").write_text(text)
    return text
