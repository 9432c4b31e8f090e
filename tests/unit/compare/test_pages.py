"""Pages whose tables and pictures are made from files of rows."""

from pathlib import Path

import pytest

from asyncds.compare.pages import PageError, made, main
from asyncds.compare.rows import write_rows
from tests.support.comparisons import results
from tests.support.synthetic_runs import small_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, gain in (("x", 0.2), ("y", 0.3)):
        for lag in (0, 4):
            for seed in (0, 1):
                small_run(
                    tmp_path / "runs" / f"{label}{lag}{seed}",
                    seed=seed,
                    gain=gain - 0.01 * lag,
                    label=f"{label} target_lag={lag}",
                    rollout={"target_lag": lag, "max_lag": 17},
                )
    write_rows(tmp_path / "r.jsonl", {Path(r.path).name: r for r in results(tmp_path / "runs")})
    return tmp_path


def page(folder: Path, spec: str) -> Path:
    path = folder / "page.md"
    path.write_text(f"Before.\n\n<!-- rows: r.jsonl\n{spec}\n-->\nstale\n<!-- end -->\n\nAfter.\n")
    return path


def table(folder: Path, spec: str) -> list[str]:
    path = page(folder, spec)
    text = made(path)[path]
    assert text.startswith("Before.\n\n<!-- rows: r.jsonl\n")
    assert text.endswith("\n\n<!-- end -->\n\nAfter.\n")
    assert "stale" not in text
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_table_of_chosen_metrics_and_groups(folder: Path) -> None:
    spec = "metrics: {pass@1 T1: one, ess: ESS}\ngroups: [y target_lag=0, x target_lag=4]"
    lines = table(folder, spec)
    assert [line.split(" | ")[0].rstrip() for line in lines] == [
        "|",
        "| ---",
        "| base",
        "| y target\\_lag=0",
        "| x target\\_lag=4",
    ]
    assert lines[0] == "|  | one | ESS |"
    assert lines[3].split(" | ")[2].startswith("0.970")


def test_differences_over_a_setting(folder: Path) -> None:
    spec = (
        'over: rollout.target_lag\nvalues: {"4": lag 4, "0": lag 0}\n'
        'metrics: {pass@1 T1: ""}\nless: x\nbold: [y]'
    )
    assert table(folder, spec) == [
        "| less x | lag 4 | lag 0 |",
        "| --- | ---: | ---: |",
        "| **y** | +9.8 ± 0.0 | +9.8 ± 0.0 |",
    ]


def test_a_picture_is_written_beside_the_page(folder: Path) -> None:
    path = page(folder, "picture: p.svg\nalt: what it shows\ngroups: [y target_lag=0]")
    main([str(path)])
    assert "\n\n![what it shows](p.svg)\n\n" in path.read_text()
    text = (folder / "p.svg").read_text()
    assert "y target_lag=0" in text
    assert "x target_lag=0" not in text
    before = path.read_text()
    main([str(path)])
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("metrics: {reward: r}", "no metric is called 'reward'"),
        ("metric: {}", "Extra inputs are not permitted"),
        ("metrics: {pass@1 T1: a}\ngroups: [z]", "no group is called 'z'"),
        ("metrics: {pass@1 T1: a}\nless: z", "there is no group 'z'"),
        ('over: rollout.target_lag\nvalues: {"5": a}\nmetrics: {ess: a}', "is never 5"),
        ("over: rollout.target_lag\nmetrics: {ess: a, pass@1 T1: b}", "shows one metric"),
        ("metrics: [", "while parsing"),
    ],
)
def test_what_a_block_can_not_show_is_a_sentence(folder: Path, spec: str, problem: str) -> None:
    with pytest.raises(PageError, match=r"page.md: rows: r.jsonl …") as error:
        made(page(folder, spec))
    assert problem in str(error.value)
