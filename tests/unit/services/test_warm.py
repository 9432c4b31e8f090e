"""The child's end of a process that stays warm: assignments in, exit codes out."""

import io
import json
from pathlib import Path

from services.process import BAD_INPUT
from services.warm import Assignments


def given(*lines: list[str]) -> tuple[Assignments, io.StringIO]:
    report = io.StringIO()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Assignments(lines=io.StringIO(text), report=report), report


def test_runs_come_one_at_a_time_and_then_no_more(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: base\n")
    file = str(tmp_path / "run.yaml")
    assignments, report = given([file, "steps=3"], [file, "steps=4"])
    first = assignments.next()
    assert first is not None
    assert first.steps == 3
    assignments.finished(0)
    assert report.getvalue() == "0\n"
    second = assignments.next()
    assert second is not None
    assert second.steps == 4
    assert assignments.next() is None


def test_a_run_that_is_refused_is_reported_and_the_next_one_served(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: base\n")
    file = str(tmp_path / "run.yaml")
    assignments, report = given([file, "stepps=3"], [file])
    served = assignments.next()
    assert served is not None
    assert served.model == "base"
    assert report.getvalue() == f"{BAD_INPUT}\n"
