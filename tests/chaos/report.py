"""What became of each fault, as JSON and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.faults import Fault


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A fault and what came of it. All times in seconds.

    reached: whether the phase was seen when the signal was sent. step: batches trained when it was
    over. recovery_seconds: from the signal until a process that ended was replaced, everybody was
    well, and then a batch was trained. stall_seconds: the longest time without a trained batch in
    between. resumed: the run had ended in good order, and was started again.
    """

    fault: Fault
    reached: bool
    step: int
    recovery_seconds: float
    stall_seconds: float
    resumed: bool


def write_report(run_dir: Path, outcomes: Sequence[Outcome], *, deadlines: dict[str, float]) -> str:
    """Write chaos.json and chaos.md into the run directory; returns the latter."""
    rows = [
        {"role": o.fault.role, "phase": o.fault.phase, "signal": o.fault.name}
        | {key: value for key, value in asdict(o).items() if key != "fault"}
        for o in outcomes
    ]
    (run_dir / "chaos.json").write_text(
        json.dumps({"deadlines": deadlines, "faults": rows}, indent=1)
    )
    lines = [
        "| # | role | phase | signal | in it | step | recovery, s | stall, s | resumed |",
        "|--:|---|---|---|---|--:|--:|--:|---|",
    ]
    for number, (o, row) in enumerate(zip(outcomes, rows, strict=True), start=1):
        marks = ["yes" if mark else "" for mark in (o.reached, o.resumed)]
        lines.append(
            f"| {number} | {row['role']} | {row['phase']} | {row['signal']} | {marks[0]} | {o.step}"
            f" | {o.recovery_seconds:.1f} | {o.stall_seconds:.1f} | {marks[1]} |"
        )
    if outcomes:
        slowest = max(outcomes, key=lambda o: o.recovery_seconds)
        stalled = max(o.stall_seconds for o in outcomes)
        lines += [
            "",
            f"{len(outcomes)} faults, {sum(o.reached for o in outcomes)} of them seen in their "
            f"phase. Longest recovery {slowest.recovery_seconds:.1f} s ({slowest.fault.name} of "
            f"the {slowest.fault.role} at {slowest.fault.phase}), longest stall {stalled:.1f} s.",
        ]
    limits = ", ".join(f"{name} {seconds:g} s" for name, seconds in deadlines.items())
    lines += ["", f"Deadlines: {limits}."]
    text = "\n".join(lines) + "\n"
    (run_dir / "chaos.md").write_text(text)
    return text
