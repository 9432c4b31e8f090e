import re
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.rollout.journal import Journal
from asyncds.telemetry.charts import Line, bar_chart, line_chart, moving_mean
from asyncds.telemetry.evaluations import evaluation_counts
from asyncds.telemetry.gains import gains
from asyncds.telemetry.numbers import duration, number, percent
from asyncds.telemetry.report.charts import report_charts
from asyncds.telemetry.report.page import write_report
from asyncds.telemetry.rollouts.read import read_rollout
from asyncds.telemetry.rollouts.texts import decoder, ids_as_text
from tests.support.html_page import Page
from tests.support.synthetic_run import make_run

HOSTILE = "<script>alert(1)</script>"


def test_a_finished_run(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path))
    page = Page(path.read_text())
    assert path.name == "report.html"
    for title in (
        "Right completions and groups",
        "Pass@k, base and result",
        "Pass@k while training",
        "Distinct correct answers",
        "Entropy",
        "Lag at consumption",
        "Mismatch by lag",
        "Effective sample size",
        "Throughput",
        "Who waits",
        "Weight sync",
        "Base and result",
        "Sample rollouts",
        "learner idle fraction",
        "groups_per_step: 2",
    ):
        assert title in page.text, title
    assert page.tags.count("svg") == 27
    for title in (
        "Pass@k while training, T 0.6",
        "Distinct correct answers, held out, T 1",
        "Normalised variance",
        "Pass@64, T 0.6",
        "Pass@k by evaluation set, T 0.6",
        "By evaluation set",
        "AIME, T 0.6",
        "1 of 13 problems have no samples and are left out of all numbers: a prompt of 300 tokens.",
    ):
        assert title in page.text, title
    # Base and result: four k. While training: Pass@1 … @16 of four evaluations, @64 of two. Held
    # out: base and result. All at two temperatures.
    assert path.read_text().count('class="whisker"') == 2 * (2 * 4 + 3 * 4 + 2 + 2)
    assert re.search(r"base, version 0: \d of 8 right", page.text)
    assert "result, version 60" in page.text


def test_diagnostics_by_lag_and_by_generator() -> None:
    lines = [
        {
            "step": step,
            "learner/mismatch_kl/lag=0": 0.001,
            "learner/mismatch_kl/lag=10": 0.003,
            "learner/mismatch_kl/lag=2": 0.002,
            "learner/mismatch_kl/generator=only-one": 0.004,
        }
        for step in (1, 2)
    ]
    charts = {chart.title: chart for chart in report_charts(lines, [], {})}
    assert [name for _, name in charts["Mismatch by lag"].legend] == ["lag 0", "lag 2", "lag 10"]
    assert not charts["Mismatch by generator"].svg


def test_it_needs_no_network_and_no_script(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path)).read_text()
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_what_a_model_wrote_is_text(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path, hostile=True)).read_text()
    page = Page(text)
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert HOSTILE not in text
    assert "&amp;amp;" in text


def test_what_a_person_wrote_is_text(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("name: quickstart", f"name: '{HOSTILE}'"))
    text = write_report(run).read_text()
    assert HOSTILE not in text
    assert HOSTILE in Page(text).text


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1, finished=False)
    page = Page(write_report(run).read_text())
    assert "not finished" in page.text
    assert "Sample rollouts" in page.text


def test_a_run_without_anything_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: empty\nmodel: nowhere/at-all\n")
    page = Page(write_report(tmp_path).read_text())
    assert "No step or evaluation was finished" in page.text


def test_lines_with_missing_keys(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "reward": null}\n{"reward": 1}\n')
    assert "Mean of each batch" in Page(write_report(run).read_text()).text


def test_a_model_that_is_gone_leaves_ids(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "models" / "tiny-countdown" / "tokenizer.json").unlink()
    assert "⟨" in Page(write_report(run).read_text()).text


def test_rollouts_are_read_back_from_the_journal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    journal = Journal(run / "journal.db", read_only=True)
    row = next(journal.groups(purpose="train"))
    journal.close()
    rollout = read_rollout(row, decoder(str(tmp_path / "models" / "tiny-countdown")))
    assert re.fullmatch(r"\d+ \d+ \d+ = \d+ :", rollout.prompt)
    assert len(rollout.completions) == row.n == 8
    assert sum(c.correct for c in rollout.completions) == row.n_correct
    assert sum(c.tokens for c in rollout.completions) == row.tokens
    assert all(c.text == c.answer for c in rollout.completions)
    assert all(c.mean_logprob < 0 for c in rollout.completions)
    ids = read_rollout(row, ids_as_text)
    assert ids.prompt.startswith("⟨")


def test_comparison_of_base_and_result() -> None:
    at = {"temperature": 1.0}
    base = at | {"pass@k": {"1": 0.2, "64": 0.9}, "distinct_correct": 5.0, "n_samples": 64}
    interim = at | {"pass@k": {"1": 0.5}, "distinct_correct": 3.0, "n_samples": 16}
    result = at | {"pass@k": {"1": 0.5, "64": 0.8}, "distinct_correct": 4.0, "n_samples": 64}
    assert gains([]) == []
    only = gains([base])
    assert [(r.name, r.base, r.result, r.gain) for r in only] == [
        ("Pass@1", "20.0%", "", ""),
        ("Pass@64", "90.0%", "", ""),
        ("distinct correct", "5.00", "", ""),
    ]
    assert [(r.name, r.result, r.gain, r.verdict) for r in gains([base, interim, result])] == [
        ("Pass@1", "50.0%", "+30.0", ""),
        ("Pass@64", "80.0%", "-10.0", ""),
        ("distinct correct", "4.00", "-1.00", ""),
    ]
    assert [r.name for r in gains([base, interim])] == ["Pass@1"]
    cold = {"temperature": 0.6, "pass@k": {"1": 0.3}}
    mixed = gains([base, cold, interim, cold | {"pass@k": {"1": 0.4}}])
    assert [(r.name, r.gain) for r in mixed] == [
        ("Pass@1, T 1", "+30.0"),
        ("Pass@1, T 0.6", "+10.0"),
    ]


@pytest.mark.parametrize(
    ("base", "result", "gain", "verdict"),
    [
        ((0.40, [0.36, 0.44]), (0.50, [0.47, 0.53]), "+10.0 ± 5.0", "better"),
        ((0.50, [0.47, 0.53]), (0.40, [0.36, 0.44]), "-10.0 ± 5.0", "worse"),
        ((0.80, [0.77, 0.83]), (0.777, [0.737, 0.817]), "-2.3 ± 5.0", ""),
        ((0.80, [0.77, 0.83]), (0.80, [0.76, 0.84]), "+0.0 ± 5.0", ""),
    ],
)
def test_a_gain_has_a_verdict_where_its_interval_leaves_out_zero(
    base: tuple[float, list[float]],
    result: tuple[float, list[float]],
    gain: str,
    verdict: str,
) -> None:
    (row,) = gains(
        [
            {"temperature": 1.0, "pass@k": {"4": value}, "pass@k_interval": {"4": ends}}
            for value, ends in (base, result)
        ]
    )
    assert (row.gain, row.verdict) == (gain, verdict)


def test_samples_that_were_deleted_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with closing(Journal(run / "journal.db")) as journal, journal.transaction():
        journal.delete_samples([g.lease for g in journal.groups(evaluation=1)])
    text = Page(write_report(run).read_text()).text
    deleted = "the samples were deleted to keep the journal within coordinator.journal_gb"
    assert re.search(rf"base, version 0: \d of 8 right; {deleted}", text)
    assert re.search(r"result, version 60: \d of 8 right, \d different", text)


def test_counts_of_an_evaluations_problems(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    journal = Journal(run / "journal.db", read_only=True)
    groups = list(journal.groups(evaluation=3))
    journal.close()
    rows, n, c = evaluation_counts(run, evaluation=3)
    assert rows.tolist() == list(range(12))
    assert n.tolist() == [8] * 12
    assert c.tolist() == [g.n_correct for g in sorted(groups, key=lambda g: g.row)]
    assert len(set(c.tolist())) > 1
    with pytest.raises(ValueError, match="no finished evaluation 99"):
        evaluation_counts(run, evaluation=99)


@given(
    st.lists(st.none() | st.floats(-1e9, 1e9), min_size=1, max_size=900),
    st.booleans(),
    st.booleans(),
)
def test_any_values_make_a_well_formed_chart(
    ys: list[float | None], smooth: bool, markers: bool
) -> None:
    line = Line(name="a<b", x=range(len(ys)), y=ys, color=0, smooth=smooth, markers=markers)
    svg = line_chart([line])
    if all(y is None for y in ys):
        assert svg == ""
        return
    numbers = re.findall(
        r"-?\d+\.\d+", " ".join(e.get("d", "") for e in ElementTree.fromstring(svg))
    )
    assert all(-1 <= float(n) <= 521 for n in numbers)


@given(st.lists(st.none() | st.floats(0, 1), min_size=3, max_size=3))
def test_bars(column: list[float | None]) -> None:
    svg = bar_chart(["<", "b", "c"], [("base", 0, column)])
    bars = [] if svg == "" else [e for e in ElementTree.fromstring(svg) if e.tag == "rect"]
    assert len(bars) == sum(v is not None for v in column)


def test_moving_mean_skips_gaps() -> None:
    assert moving_mean([1.0, None, 3.0, 5.0], 3) == [1.0, None, 4.0, 4.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (12.34, "12.3"),
        (999.6, "1000"),
        (12345, "12.3k"),
        (2.5e6, "2.5M"),
        (3e9, "3G"),
        (-12345, "-12.3k"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_percent_and_duration() -> None:
    assert percent(0.153) == "15.3%"
    assert [duration(s) for s in (5, 65.4, 3665)] == ["0:05", "1:05", "1:01:05"]
