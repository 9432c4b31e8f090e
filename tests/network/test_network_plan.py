"""The list of faults of the network, and their report: pure."""

import json
from itertools import product
from pathlib import Path

from tests.network.network_faults import CUTS, DELAY, LOSS, PHASES, ROLES, matrix
from tests.network.network_report import NetworkOutcome, write_network_report


def test_every_machine_has_every_fault_in_every_phase() -> None:
    faults = matrix()
    kinds = [(cut, 0.0, 0.0) for cut in CUTS] + [(0.0, DELAY, 0.0), (0.0, 0.0, LOSS)]
    made = [(f.role, f.phase, (f.cut, f.delay, f.loss)) for f in faults]
    assert sorted(made) == sorted(product(ROLES, PHASES, kinds))
    assert len({(f.role, f.phase, f.name) for f in faults}) == len(faults)
    assert {f.role for f in matrix(["learner"])} == {"learner"}


def test_the_report_has_a_line_for_each_fault(tmp_path: Path) -> None:
    outcomes = [
        NetworkOutcome(
            fault=fault,
            reached=i != 1,
            step=10 * i,
            recovery_seconds=0.5 + i,
            stall_seconds=2.0,
            rejoined=int(fault.cut > 20),
        )
        for i, fault in enumerate(matrix())
    ]
    table = write_network_report(tmp_path, outcomes, deadlines={"dead": 20.0})
    assert table == (tmp_path / "network.md").read_text()
    assert "| 1 | generator | down for 1 s | sampling | yes | 0 | 0.5 | 2.0 |  |" in table
    assert "| 6 | generator | down for 60 s | broadcast | yes | 50 | 5.5 | 2.0 | 1 |" in table
    assert "| 17 | learner | 200 ms late | sampling |" in table
    assert "| 30 | coordinator | 5% lost | broadcast |" in table
    assert "Deadlines: dead 20 s." in table
    rows = json.loads((tmp_path / "network.json").read_text())
    assert [row["reached"] for row in rows["faults"]].count(False) == 1
    assert rows["deadlines"] == {"dead": 20.0}
