import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from asyncds.cli.live import plain_line, render, sparkline
from asyncds.cli.table import final_table
from asyncds.protocol.records import MemberStatus, RunStatus
from tests.support.records import run_status

STATUS = {
    "name": "quickstart",
    "state": "running",
    "step": 84,
    "steps": 200,
    "version": 83,
    "elapsed": 151.2,
    "reward": 0.4123,
    "correct": 0.401,
    "pass": {"1": 0.312, "4": 0.5, "64": 0.85},
    "base_pass": {"1": 0.157, "64": 0.95},
    "distinct_correct": 2.31,
    "lag_mean": 1.1,
    "lag_max": 2,
    "max_lag": 4,
    "generated_tokens_per_second": 1712.3,
    "trained_tokens_per_second": 1503.0,
    "outstanding": 41,
    "buffered": 12,
    "waiting_for": "generators wait for the learner",
    "sync_seconds": 0.21,
    "pause_seconds": 0.08,
    "learner": {
        "phase": "optimizer",
        "step": 84,
        "version": 83,
        "idle_fraction": 0.31,
        "last_seen": 0.2,
    },
    "evaluation": {"version": 50, "done": 64, "total": 128},
    "fleet": [
        {
            "name": "generator-0",
            "health": "suspect",
            "version": 83,
            "leases": 12,
            "tokens_per_second": 1712.0,
            "kv_use": 0.12,
            "last_seen": 13.0,
        }
    ],
    "history": {"reward": [0.1, 0.2, 0.4]},
    "message": "the checkpoint took 20 s",
    "page": "http://127.0.0.1:9400/",
}


def drawn(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_has_everything() -> None:
    text = drawn(render(run_status(STATUS)))
    for part in (
        "quickstart · running",
        "84/200",
        "2:31",
        "0.412",
        "40.1%",
        "Pass@1",
        "31.2%",
        "base 15.7%",
        "Pass@64",
        "largest 2, bound 4",
        "1712",
        "41",
        "12 ready",
        "0.21 s",
        "pause 0.08 s",
        "generators wait for the learner",
        "optimizer",
        "idle 31%",
        "generator-0",
        "suspect",
        "silent for 13 s",
        "▁▃█",
        "http://127.0.0.1:9400/",
        "the checkpoint took 20 s",
    ):
        assert part in text, part


def test_the_line_has_the_essentials() -> None:
    line = plain_line(run_status(STATUS))
    assert "\n" not in line
    for part in ("[2:31] running", "step 84/200", "version 83", "lag 1.1", "Pass@64 85%"):
        assert part in line, part


@given(st.sets(st.sampled_from(sorted(STATUS))))
def test_anything_may_be_missing(keys: set[str]) -> None:
    status = run_status({k: v for k, v in STATUS.items() if k not in keys})
    assert drawn(render(status))
    assert plain_line(status)


def test_a_run_of_which_nothing_is_known() -> None:
    assert "learner" in drawn(render(RunStatus()))
    assert "step 0/–" in plain_line(RunStatus())


def test_names_are_not_markup() -> None:
    member = MemberStatus(name="[bold]g[/bold]", health="[red]", version=-1, last_seen=0.0)
    text = drawn(render(RunStatus(name="[a]", message="[/nothing]", fleet=[member])))
    for part in ("[a]", "[/nothing]", "[bold]g[/bold]", "[red]"):
        assert part in text


@given(st.lists(st.none() | st.floats(0, 1), max_size=60))
def test_sparkline(values: list[float | None]) -> None:
    assert len(sparkline(values)) == min(24, sum(v is not None for v in values))


def test_sparkline_is_scaled_to_its_own_range() -> None:
    assert sparkline([5.0, 6.0, None, 7.0]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"


def test_final_table() -> None:
    summary = {
        "status": "finished",
        "steps": 200,
        "wall_seconds": 220.0,
        "tokens_per_second": 1500.0,
        "learner_idle_fraction": 0.31,
        "generator_pause_fraction": 0.08,
        "weight_sync_seconds": {"p50": 0.21, "p95": 0.3},
        "lag": {"mean": 0.9, "max": 2},
        "groups_dropped": {"stale": 3},
        "eval": [
            {"version": 0, "temperature": 1.0, "pass@k": {"1": 0.157, "64": 0.95}}
            | {"distinct_correct": 5.05},
            {"version": 200, "temperature": 1.0, "pass@k": {"1": 0.443, "64": 0.841}}
            | {"distinct_correct": 3.8},
        ],
    }
    lines = [line.split() for line in drawn(final_table(summary)).splitlines()]
    assert ["Pass@1", "15.7%", "44.3%", "+28.6"] in lines
    assert ["Pass@64", "95.0%", "84.1%", "-10.9"] in lines
    assert ["distinct", "correct", "5.05", "3.80", "-1.25"] in lines
    assert ["wall", "time", "3:40"] in lines
    assert ["lag,", "largest", "2"] in lines
    assert ["learner", "waited", "31%"] in lines


def test_final_table_of_a_run_that_reached_nothing() -> None:
    nothing = {"status": "failed", "weight_sync_seconds": {"p50": None, "p95": None}, "eval": []}
    assert drawn(final_table(nothing)).split() == ["status", "failed"]


def test_final_table_of_an_evaluation() -> None:
    result = {"temperature": 1.0, "pass@k": {"1": 0.5}, "n_samples": 4, "distinct_correct": 2.0}
    summary = {"status": "finished", "steps": 0, "wall_seconds": 60, "lag": {"max": 0}}
    lines = [line.split() for line in drawn(final_table(summary | {"eval": [result]})).splitlines()]
    assert ["model"] in lines
    assert ["Pass@1", "50.0%"] in lines
    assert not [line for line in lines if line[:1] in (["lag,"], ["base"], ["gain"])]


def test_a_line_of_an_evaluation_has_no_steps() -> None:
    assert "step" not in plain_line(RunStatus(state="evaluating", steps=0))
