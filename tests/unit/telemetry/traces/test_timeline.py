"""The timeline: one file that trace viewers read, whatever the processes wrote and however they
ended."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.config.operation import TracesConfig
from asyncds.telemetry.traces import timeline as module
from asyncds.telemetry.traces.timeline import FILE, FOLDER, TimelineFile, merge_timeline
from asyncds.telemetry.traces.traces import Traces

SECOND = 10**9


def traces(run_dir: Path, name: str) -> Traces:
    config = TracesConfig(timeline=True)
    made = Traces(config, run="r", role="generator", name=name, run_dir=run_dir)
    made.run_id = "0f"
    return made


def merged(run_dir: Path) -> list[dict[str, Any]]:
    path = merge_timeline(run_dir)
    assert path == run_dir / FILE
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_two_processes_and_all_kinds_of_events_become_one_file(tmp_path: Path) -> None:
    with closing(traces(tmp_path, "a")) as a, closing(traces(tmp_path, "b")) as b:
        assert a.on
        a.here("steps", "train", start=5 * SECOND, end=7 * SECOND, step=3)
        trace = b.lease(9)
        assert trace is not None
        trace.root("lease", start=4 * SECOND, end=6 * SECOND, error="no", row=1)
        b.count("requests", at=8 * SECOND, running=2, waiting=1)
    events = merged(tmp_path)
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert names == {"a": 1, "b": 2}
    [row] = [e for e in events if e["name"] == "thread_name"]
    assert (row["pid"], row["args"]) == (1, {"name": "steps"})
    [train] = [e for e in events if e["name"] == "train"]
    assert train["tid"] == row["tid"]
    assert (train["ts"], train["dur"], train["args"]) == (1e6, 2e6, {"step": 3})
    begin, end = (e for e in events if e["name"] == "lease")
    assert (begin["ph"], begin["ts"], end["ph"], end["ts"]) == ("b", 0, "e", 2e6)
    assert begin["id"] == end["id"]
    assert begin["args"] == {"asyncds.lease": 9, "asyncds.row": 1, "error": "no"}
    [count] = [e for e in events if e["ph"] == "C"]
    assert (count["pid"], count["ts"], count["args"]) == (2, 4e6, {"running": 2, "waiting": 1})


@given(written=st.integers(0, 5), cut=st.integers(0, 200))
def test_what_a_killed_process_left_unfinished_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, written: int, cut: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    with closing(traces(run_dir, "a")) as a:
        for i in range(written):
            a.here("row", f"{i}", start=i, end=i + 1)
    file = run_dir / FOLDER / "a.json"
    whole = file.read_bytes()
    left = whole[: max(0, len(whole) - cut)]
    file.write_bytes(left)
    shown = [e["name"] for e in merged(run_dir) if e["ph"] == "X"]
    lines = left.decode().splitlines()
    assert len(shown) in (max(0, len(lines) - 1), max(0, len(lines) - 2))
    assert shown == [str(i) for i in range(len(shown))]


def test_a_process_that_starts_again_goes_on_in_its_file(tmp_path: Path) -> None:
    for start in (1, 2):
        with closing(traces(tmp_path, "a")) as a:
            a.here("row", "x", start=start, end=start + 1)
    assert [e["ts"] for e in merged(tmp_path) if e["ph"] == "X"] == [0, 0.001]


def test_events_are_written_while_it_goes_on_and_none_after_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_EVENTS", 3)
    file = TimelineFile(tmp_path, name="a")
    file.count("n", 1, {"x": 1})
    assert (tmp_path / "a.json").read_text() == ""
    file.count("n", 2, {"x": 2})
    assert len((tmp_path / "a.json").read_text().splitlines()) == 3
    file.close()
    for _ in range(9):
        file.count("n", 3, {"x": 3})
    assert len((tmp_path / "a.json").read_text().splitlines()) == 3


def test_without_one_nothing_is_written(tmp_path: Path) -> None:
    off = Traces(None, run="r", role="learner", name="l", run_dir=tmp_path)
    off.here("row", "x", start=1, end=2)
    off.count("n", at=1, x=1)
    off.close()
    assert list(tmp_path.iterdir()) == []
    assert merge_timeline(tmp_path) is None
