"""The plan of faults and their report: pure."""

import json
import signal
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.faults import PHASES, ROLES, SIGNALS, Fault, make_plan
from tests.chaos.phases import PHASES as WAYS
from tests.chaos.report import Outcome, write_report

ALL = len(ROLES) * len(SIGNALS) * len(PHASES)
PAUSES = (1.0, 12.0)


def combination(fault: Fault) -> tuple[str, str, int]:
    return fault.role, fault.phase, fault.signal


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 2 * ALL))
def test_a_plan_is_balanced_and_follows_from_its_seed(seed: int, n: int) -> None:
    plan = make_plan(n, seed=seed, pauses=PAUSES)
    assert len(plan) == n
    assert plan == make_plan(n, seed=seed, pauses=PAUSES)
    assert plan == make_plan(2 * ALL, seed=seed, pauses=PAUSES)[:n]
    for first in range(0, n - 8, 9):
        assert len({(f.role, f.signal) for f in plan[first : first + 9]}) == 9
    for first in range(0, n - ALL + 1, ALL):
        assert len({combination(f) for f in plan[first : first + ALL]}) == ALL


def test_only_some_of_what_is_stopped_is_left_to_the_system() -> None:
    plan = make_plan(ALL, seed=3, pauses=PAUSES)
    stopped = [f for f in plan if f.signal is signal.SIGSTOP]
    assert Counter(f.pause is None for f in stopped) == {True: 12, False: 12}
    assert all(PAUSES[0] <= f.pause <= PAUSES[1] for f in stopped if f.pause is not None)
    assert all(f.pause is None for f in plan if f.signal is not signal.SIGSTOP)


def test_two_seeds_are_two_orders() -> None:
    assert make_plan(9, seed=1, pauses=PAUSES) != make_plan(9, seed=2, pauses=PAUSES)


def test_every_phase_has_its_way() -> None:
    assert set(WAYS) == set(PHASES)


def test_the_report_names_what_took_longest(tmp_path: Path) -> None:
    faults = make_plan(3, seed=0, pauses=PAUSES)
    outcomes = [
        Outcome(
            fault=fault,
            reached=i != 1,
            step=10 * i,
            recovery_seconds=float(i),
            stall_seconds=2.5 - i,
            resumed=False,
        )
        for i, fault in enumerate(faults)
    ]
    table = write_report(tmp_path, outcomes, deadlines={"stall": 9.0})
    assert table == (tmp_path / "chaos.md").read_text()
    assert "3 faults, 2 of them seen in their phase. Longest recovery 2.0 s" in table
    assert f"of the {faults[2].role} at {faults[2].phase}), longest stall 2.5 s" in table
    rows = json.loads((tmp_path / "chaos.json").read_text())
    assert [row["recovery_seconds"] for row in rows["faults"]] == [0, 1, 2]
    assert rows["deadlines"] == {"stall": 9.0}
