"""Runs along the values of a setting: series, their tables, files and charts."""

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.compare.comparison import Comparison, NotComparableError, compare
from asyncds.compare.estimate import Estimate
from asyncds.compare.groups import group_runs, series_label, setting_text, settings
from asyncds.compare.report import write_comparison
from asyncds.compare.runs import RunResult
from tests.support.comparisons import compared, means, results, row, tables, values
from tests.support.html_page import Page
from tests.support.synthetic_runs import small_run

LAG = "rollout.target_lag"
SVG = "{http://www.w3.org/2000/svg}"


def run(
    directory: Path,
    *,
    lag: int = 0,
    result: float = 0.3,
    solutions: float | None = None,
    measures: dict[str, float] | None = None,
    **options: Any,
) -> None:
    """A run whose Pass@1 is `result` in the end."""
    small_run(directory, rollout={"target_lag": lag, "max_lag": 17}, **options)
    summary = json.loads((directory / "summary.json").read_text())
    summary["eval"][-1]["pass@k"]["1"] = result
    for evaluation in summary["eval"]:
        evaluation["solution_multiplicity"] = solutions
    summary["lag"]["mean"] = lag + 0.5
    summary["diagnostics"] = {name: {"mean": mean} for name, mean in (measures or {}).items()}
    (directory / "summary.json").write_text(json.dumps(summary))


def lags(root: Path, **options: Any) -> None:
    """Two arms at the lags 0, 4 and 16, of which Pass@1 is known; y has no seed 1 at 16."""
    known = {
        ("x", 0): (0.40, 0.44),
        ("x", 4): (0.38, 0.40),
        ("x", 16): (0.30, 0.32),
        ("y", 0): (0.41, 0.43),
        ("y", 4): (0.44, 0.50),
        ("y", 16): (0.35, None),
    }
    for (arm, lag), shares in known.items():
        for seed, share in enumerate(shares):
            if share is not None:
                name = f"{arm}-{seed}-lag{lag:02}"
                label = f"{arm} target_lag={lag}"
                run(root / name, lag=lag, seed=seed, result=share, label=label, **options)


def along(root: Path, over: str = LAG, baseline: str | None = None) -> Comparison:
    return compared(root, baseline, over)


def shown(root: Path, over: str = LAG) -> list[str]:
    """The metrics that results have tables of."""
    titles = tables(along(root, over))
    return [t.split(" at ")[0] for t in titles if t.endswith(" at temperature 1")]


# --- which runs are a series --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "value", "series"),
    [
        ("GRPO target_lag=4", 4, "GRPO"),
        ("GRPO, tis target_lag=4 lr=0.1", 4, "GRPO, tis lr=0.1"),
        ("GRPO max_lag=4", 4, "GRPO max_lag=4"),
        ("GRPO target_lag=8", 4, "GRPO target_lag=8"),
        ("GRPO target_lag=40", 4, "GRPO target_lag=40"),
        ("GRPO target_lag=2e-4", 0.0002, "GRPO"),
        ("GRPO target_lag=None", None, "GRPO"),
        ("GRPO target_lag=True", True, "GRPO"),
        ("GRPO target_lag=[1.0, 0.3] seed", [1.0, 0.3], "GRPO seed"),
        ("GRPO target_lag=models/a/", "models/a/", "GRPO"),
        ("target_lag=4", 4, "target_lag=4"),
        ("", 4, ""),
    ],
)
def test_a_label_loses_the_value_that_a_sweep_put_there(
    label: str, value: object, series: str
) -> None:
    assert series_label({"label": label, "rollout": {"target_lag": value}}, LAG) == series
    assert series_label({"label": label}, LAG) == label
    assert series_label({"label": label, "rollout": {"target_lag": value}}, None) == label


def test_the_setting_of_the_right_name_is_taken_off(tmp_path: Path) -> None:
    """Two settings of the grid may end alike."""
    config = {"label": "x kind=tis kind=grpo", "a": {"kind": "grpo"}, "c": {"kind": "tis"}}
    assert series_label(config, "a.kind") == "x kind=tis"
    assert series_label(config, "c.kind") == "x kind=grpo"


def test_series_of_labelled_runs(tmp_path: Path) -> None:
    lags(tmp_path)
    groups = group_runs(results(tmp_path), over=LAG)
    assert [(g.label, len(g.runs)) for g in groups] == [("x", 6), ("y", 5)]
    assert [len(g.runs) for g in group_runs(results(tmp_path))] == [2, 2, 2, 2, 2, 1]


def test_series_of_runs_without_a_label(tmp_path: Path) -> None:
    for i, kind in enumerate(("grpo", "ds_grpo")):
        for lag in (0, 2):
            algorithm = {"advantage": {"kind": kind}}
            run(tmp_path / f"r{i}{lag}", lag=lag, algorithm=algorithm)
    comparison = along(tmp_path)
    labels = ["advantage.kind=grpo", "advantage.kind=ds_grpo"]
    assert [s.label for s in comparison.groups] == labels
    assert all(LAG not in s.settings for s in comparison.groups)
    assert comparison.values == ("0", "2")


def test_what_belongs_to_a_kind_makes_no_series_over_it(tmp_path: Path) -> None:
    """tis has a cap that others lack; two caps are two series all the same."""
    for i, correction in enumerate(({"kind": "none"}, {"kind": "tis", "cap": 2.0})):
        algorithm = {"loss": {"kind": "clip", "ratio": "proximal"}, "correction": correction}
        small_run(tmp_path / f"r{i}", algorithm=algorithm)
    over = "algorithm.correction.kind"
    assert [s.label for s in along(tmp_path, over).groups] == ["all runs"]
    small_run(
        tmp_path / "r2",
        algorithm={
            "loss": {"kind": "clip", "ratio": "proximal"},
            "correction": {"kind": "tis", "cap": 5.0},
        },
    )
    assert len(along(tmp_path, over).groups) == 3


names = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8
)


@given(st.lists(st.dictionaries(names, trees, max_size=3), min_size=1, max_size=6), st.data())
def test_any_runs_are_in_one_series_each_and_differ_in_the_setting_alone(
    configs: list[dict[str, Any]], data: st.DataObject
) -> None:
    runs = [
        RunResult(path=str(i), base="m", seed=i, config=config, summary={"eval": []}, lines=[])
        for i, config in enumerate(configs)
    ]
    over = data.draw(st.sampled_from(["a", *(n for c in configs for n in settings(c))]))
    groups = group_runs(runs, over=over)
    assert sorted(r.path for g in groups for r in g.runs) == sorted(r.path for r in runs)
    assert len({json.dumps(g.settings, sort_keys=True) for g in groups}) == len(groups)
    for group in groups:
        assert over not in group.settings
        rest = [{n: v for n, v in settings(r.config).items() if n != over} for r in group.runs]
        assert all(one == rest[0] for one in rest)


# --- values -------------------------------------------------------------------------------------


def test_numbers_ascend_and_other_values_are_in_the_order_of_the_runs(tmp_path: Path) -> None:
    for i, lag in enumerate((16, 4, None, 0, 8)):
        rollout = {"target_lag": lag, "max_lag": 17}
        small_run(tmp_path / "lags" / f"r{i}", label="x", rollout=rollout)
    assert along(tmp_path / "lags").values == ("0", "4", "8", "16", "null")
    for i, base in enumerate(("models/zebra", "models/ant/")):
        small_run(tmp_path / "bases" / f"r{i}", base=base)
    assert along(tmp_path / "bases", "model").values == ("zebra", "ant")


def test_a_setting_that_some_runs_lack(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", label="x", algorithm={"advantage": {"kind": "grpo"}})
    small_run(
        tmp_path / "r1", label="x", algorithm={"advantage": {"kind": "ds_grpo", "gamma_p": 0.5}}
    )
    assert along(tmp_path, "algorithm.advantage.gamma_p").values == ("0.5", "–")


def test_paths_of_equal_ends_are_written_out(tmp_path: Path) -> None:
    for i, base in enumerate(("one/a", "two/a")):
        small_run(tmp_path / f"r{i}", base=base)
    assert along(tmp_path, "model").values == ("one/a", "two/a")


def test_what_can_not_be_a_setting_to_compare_over(tmp_path: Path) -> None:
    lags(tmp_path)
    apart = "they differ in seed, rollout.target_lag"
    with pytest.raises(NotComparableError, match=f"no run has a setting 'lag': {apart}$"):
        along(tmp_path, "lag")
    with pytest.raises(NotComparableError, match="no run has a setting 'rollout'"):
        along(tmp_path, "rollout")
    with pytest.raises(NotComparableError, match=f"^model is models/a in all runs: {apart}$"):
        along(tmp_path, "model")
    with pytest.raises(NotComparableError, match=r"no group 'x target_lag=0' .* 'x', 'y'$"):
        along(tmp_path, baseline="x target_lag=0")
    [one] = [r for r in results(tmp_path) if r.path.endswith("x-0-lag04")]
    with pytest.raises(NotComparableError, match="is 4 in all runs: give runs that differ in"):
        compare([one], over=LAG)


# --- numbers ------------------------------------------------------------------------------------


PASS = "Pass@1 at temperature 1"


def test_means_per_group_and_value(tmp_path: Path) -> None:
    lags(tmp_path)
    assert shown(tmp_path) == ["Pass@1", "Pass@64", "Distinct"]
    table = tables(along(tmp_path))[PASS]
    assert [c.heading for c in table.columns] == ["0", "4", "16"]
    assert means(table, "x") == [0.42, 0.39, 0.31]
    assert means(table, "y") == [0.42, 0.47, 0.35]
    # Two values 0.04 apart: the t of one degree of freedom times 0.02.
    first, last = values(table, "x")[0], values(table, "y")[2]
    assert (first.half, first.n) == (pytest.approx(12.7062 * 0.02, rel=1e-4), 2)
    assert last == Estimate(mean=0.35, half=None, n=1)
    assert [(c.text, c.verdict) for c in row(table, "y").cells] == [
        ("42.0 ± 12.7", ""),
        ("47.0 ± 38.1", ""),
        ("35.0 (n=1)", ""),
    ]


def test_differences_to_the_baseline_are_of_the_same_value_base_and_seed(tmp_path: Path) -> None:
    lags(tmp_path)
    table = tables(along(tmp_path))[f"{PASS}, less x"]
    assert [r.label for r in table.rows] == ["y"]
    # 0.41 − 0.40 and 0.43 − 0.44; 0.44 − 0.38 and 0.50 − 0.40; 0.35 − 0.30.
    assert means(table, "y") == [pytest.approx(0), 0.08, 0.05]
    found = values(table, "y")
    assert [value.n for value in found] == [2, 2, 1]
    assert found[1].half == pytest.approx(12.7062 * 0.02, rel=1e-4)
    assert row(table, "y").cells[2].text == "+5.0 (n=1)"
    assert [(p.label, p.base, p.seed, p.texts) for p in table.pairs] == [
        ("y", "a", 0, ("+1.0", "+6.0", "+5.0")),
        ("y", "a", 1, ("-1.0", "+10.0", "–")),
    ]
    back = tables(along(tmp_path, baseline="y"))[f"{PASS}, less y"]
    assert means(back, "x") == [pytest.approx(0), -0.08, -0.05]


def test_differences_to_the_first_value_are_of_the_group_itself(tmp_path: Path) -> None:
    lags(tmp_path)
    table = tables(along(tmp_path))[f"{PASS}, less itself at target_lag 0"]
    assert [c.heading for c in table.columns] == ["4", "16"]
    assert means(table, "x") == [-0.03, -0.11]
    # y at 16 has seed 0 only: less 0.41, not less the mean 0.42.
    assert means(table, "y") == [0.05, -0.06]


def test_differences_of_a_known_sign_are_judged(tmp_path: Path) -> None:
    for seed in (0, 1):
        for label, gain in (("x", 0.0), ("y", 0.1), ("z", -0.1)):
            for lag in (0, 4):
                share = 0.4 + gain + 0.001 * seed * gain
                run(tmp_path / f"{label}{seed}{lag}", seed=seed, label=label, lag=lag, result=share)
    table = tables(along(tmp_path))[f"{PASS}, less x"]
    assert [(r.n, r.cells[0].text, r.cells[0].verdict) for r in table.rows] == [
        (2, "+10.0 ± 0.1", "better"),
        (2, "-10.0 ± 0.1", "worse"),
    ]


def test_bases_that_differ_between_values_are_no_pairs(tmp_path: Path) -> None:
    for base, solutions in (("models/a", 5.5), ("models/b", 1.0)):
        for seed in (0, 1):
            for label, share in (("x", 0.4), ("y", 0.45)):
                run(
                    tmp_path / f"{label}-{base[-1]}-{seed}",
                    base=base,
                    seed=seed,
                    label=label,
                    result=share,
                    solutions=solutions,
                )
    found = tables(along(tmp_path, "model"))
    assert not any("less itself" in title for title in found)
    assert means(found[f"{PASS}, less x"], "y") == [0.05, 0.05]
    above = [
        [r.label for r in found[f"{name} at temperature 1"].rows if r.group is None]
        for name in ("Pass@1", "Pass@64", "Distinct")
    ]
    assert above == [
        ["base", "distinct at base", "solutions per problem"],
        ["base", "distinct at base", "solutions per problem"],
        ["base", "solutions per problem"],
    ]
    one = Estimate(mean=5.5, half=None, n=1)
    solutions_row = values(found[PASS], "solutions per problem")
    assert solutions_row == [one, Estimate(mean=1, half=None, n=1)]
    assert values(found[PASS], "distinct at base")[1] == Estimate(mean=2, half=None, n=1)


def test_a_task_that_is_the_same_at_all_values_says_nothing_of_its_solutions(
    tmp_path: Path,
) -> None:
    lags(tmp_path, solutions=5.5)
    above = [r.label for t in tables(along(tmp_path)).values() for r in t.rows if r.group is None]
    assert set(above) == {"base"}


def test_tasks_that_count_answers_in_their_own_ways(tmp_path: Path) -> None:
    """Each column has one way: it is shown, but no difference between columns."""
    for seed in (0, 1):
        run(tmp_path / f"a{seed}", seed=seed, label="x")
        run(tmp_path / f"b{seed}", seed=seed, label="x", lag=4)
    itself = "Distinct at temperature 1, less itself at target_lag 0"
    assert itself in tables(along(tmp_path))
    for seed in (0, 1):
        edit(tmp_path / f"b{seed}", equivalence="another")
    assert itself not in tables(along(tmp_path))
    assert shown(tmp_path) == ["Pass@1", "Pass@64", "Distinct"]
    edit(tmp_path / "b1", equivalence="a third")
    assert shown(tmp_path) == ["Pass@1", "Pass@64"]
    for seed in (0, 1):
        edit(tmp_path / f"b{seed}", equivalence="another", n_samples=8)
    assert shown(tmp_path) == ["Pass@1", "Pass@64"]
    for directory in ("b0", "a0", "a1", "b1"):
        edit(tmp_path / directory, equivalence="written", n_samples=64, distinct_correct=None)
    assert shown(tmp_path) == ["Pass@1", "Pass@64"]


def edit(directory: Path, **values: Any) -> None:
    summary = json.loads((directory / "summary.json").read_text())
    for evaluation in summary["eval"]:
        evaluation |= values
    (directory / "summary.json").write_text(json.dumps(summary))


def test_k_that_all_runs_have(tmp_path: Path) -> None:
    run(tmp_path / "r0", label="x")
    small_run(tmp_path / "r1", label="x", ks=(1, 4), rollout={"target_lag": 2})
    assert shown(tmp_path)[:2] == ["Pass@1", "Pass@4"]
    small_run(tmp_path / "r2", label="x", ks=(3,), rollout={"target_lag": 3})
    with pytest.raises(NotComparableError, match="no k of Pass@k is common to all runs"):
        along(tmp_path)


def test_every_temperature(tmp_path: Path) -> None:
    lags(tmp_path, temperatures=(0.6, 1.0))
    titles = [t for t in tables(along(tmp_path)) if re.search(r"at temperature [\d.]+$", t)]
    assert titles == [
        f"{name} at temperature {t}" for t in (0.6, 1) for name in ("Pass@1", "Pass@64", "Distinct")
    ]


def test_measures_of_the_training(tmp_path: Path) -> None:
    run(tmp_path / "r0", label="x", measures={"ess": 0.9, "mismatch_kl": 0.002})
    run(tmp_path / "r1", label="x", seed=1, measures={"ess": 0.8})
    run(tmp_path / "r2", label="x", lag=4)
    log = tmp_path / "r2" / "metrics.jsonl"
    shares = (0.5, 0.7, math.nan)
    lines = [{"step": i, "learner/ess": None if s != s else s} for i, s in enumerate(shares)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = tables(along(tmp_path))
    measures = [t for t in found if "temperature" not in t]
    assert measures == ["Effective sample size", "Mismatch KL, nats per token", "Lag, mean"]
    assert means(found["Effective sample size"], "x") == [0.85, 0.6]
    mismatch = values(found["Mismatch KL, nats per token"], "x")
    assert mismatch == [Estimate(mean=0.002, half=None, n=1), None]
    assert means(found["Lag, mean"], "x") == [0.5, 4.5]


def test_measures_that_no_run_has_are_left_out(tmp_path: Path) -> None:
    lags(tmp_path)
    assert [t for t in tables(along(tmp_path)) if "temperature" not in t] == ["Lag, mean"]


# --- files --------------------------------------------------------------------------------------


def write(root: Path, over: str = LAG) -> dict[str, str]:
    written = write_comparison(along(root, over), [], root.parent / "made" / "out")
    assert [path.name for path in written] == [
        f"compare.{e}" for e in ("html", "md", "svg", "json")
    ]
    return {path.suffix[1:]: path.read_text() for path in written}


def test_the_files(tmp_path: Path) -> None:
    lags(tmp_path / "runs", measures={"ess": 0.9})
    files = write(tmp_path / "runs")
    page = Page(files["html"])
    for text in (
        "2 groups of runs over rollout.target_lag",
        "Baseline: x",
        "Pass@64 at temperature 1, less itself at target_lag 0",
        "Effective sample size",
        "y-0-lag16",
    ):
        assert text in page.text, text
    assert page.tags.count("svg") == 5
    assert page.links == []
    assert "script" not in page.tags
    # Means with a row of the bases; pairs below differences; measures; the runs.
    result = (1 + 1 + 2) + (1 + 1) + (1 + 2) + (1 + 2) + (1 + 4)
    assert page.tags.count("tr") == 3 * result + 2 * (1 + 2) + (1 + 11)

    assert "| y | 2 | 42.0 ± 12.7 | 47.0 ± 38.1 | 35.0 (n=1) |" in files["md"]
    assert "### Pass@1 at temperature 1, less x" in files["md"]
    assert "| y | a | 1 | -1.0 | +10.0 | – |" in files["md"]

    numbers = json.loads(files["json"])
    assert (numbers["over"], numbers["values"], numbers["baseline"]) == (LAG, ["0", "4", "16"], "x")
    assert [g["label"] for g in numbers["groups"]] == ["x", "y"]
    assert {(r["seed"], r["at"]) for r in numbers["rows"] if r["group"] == 1} == {
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
        (0, 2),
    }
    [y] = numbers["tables"][1]["rows"]
    assert y["cells"][1]["mean"] == pytest.approx(0.08)

    picture = ElementTree.fromstring(files["svg"])
    titles = [e.text for e in picture.findall(f"{SVG}text") if e.get("class") == "title"]
    assert titles == [
        "Pass@1 at temperature 1",
        "Pass@64 at temperature 1",
        "Distinct at temperature 1",
        "Effective sample size",
        "Lag, mean",
    ]


def test_values_stand_evenly_spaced(tmp_path: Path) -> None:
    lags(tmp_path / "runs")
    chart = ElementTree.fromstring(write(tmp_path / "runs")["svg"]).findall(f"{SVG}svg")[0]
    places = {e.text: float(e.get("x", "")) for e in chart.findall(f"{SVG}text")}
    assert places["4"] - places["0"] == pytest.approx(places["16"] - places["4"], abs=0.11)
    titles = [e[0].text for e in chart.findall(f"{SVG}circle")]
    assert "x, target_lag 4: 39%" in titles
    assert "y, target_lag 16: 35%" in titles


def test_values_that_have_no_order_are_not_joined(tmp_path: Path) -> None:
    lags(tmp_path / "numbers")
    for base in ("ant", "zebra"):
        run(tmp_path / "names" / base, base=base, label="x")
    joined, apart = (
        ElementTree.fromstring(files["svg"]).findall(f"{SVG}svg")[0].findall(f"{SVG}path")
        for files in (
            write(tmp_path / "numbers"),
            write(tmp_path / "names", over="model"),
        )
    )
    assert "line" in [path.get("class") for path in joined]
    assert "line" not in [path.get("class") for path in apart]


def test_an_interval_that_leaves_the_chart_is_cut(tmp_path: Path) -> None:
    lags(tmp_path / "runs")
    chart = ElementTree.fromstring(write(tmp_path / "runs")["svg"]).findall(f"{SVG}svg")[0]
    whiskers = [e.get("d", "") for e in chart.findall(f"{SVG}path") if e.get("class") == "whisker"]
    assert len(whiskers) == 5  # one cell is of one run
    ys = [float(y) for d in whiskers for y in re.findall(r"(?<=[ V])[\d.]+(?=V|M|h|$)", d)]
    assert ys
    assert min(ys) >= 10
    assert max(ys) <= 200


def test_the_base_is_drawn_where_it_leaves_room_for_the_series(tmp_path: Path) -> None:
    for i, share in enumerate((0.4, 0.9)):
        run(tmp_path / "far" / f"r{i}", lag=i, label="x", result=share)
    note = "grey: the base models"
    first = ElementTree.fromstring(write(tmp_path / "far")["svg"]).findall(f"{SVG}svg")[0]
    assert any("base" in (e[0].text or "") for e in first.findall(f"{SVG}circle"))
    for i, share in enumerate((0.40, 0.41)):
        run(tmp_path / "near" / f"r{i}", lag=i, label="x", result=share)
    files = write(tmp_path / "near")
    first = ElementTree.fromstring(files["svg"]).findall(f"{SVG}svg")[0]
    assert not any("base" in (e[0].text or "") for e in first.findall(f"{SVG}circle"))
    assert Page(files["html"]).text.count(note) < 3


def test_names_that_do_not_fit_below_a_chart_keep_their_ends(tmp_path: Path) -> None:
    bases = [f"models/a-model-of-a-very-long-name-{i}" for i in range(6)]
    for i, base in enumerate(bases):
        run(tmp_path / "runs" / f"r{i}", base=base, label="x")
    texts = [
        e.text or ""
        for e in ElementTree.fromstring(write(tmp_path / "runs", "model")["svg"]).iter(f"{SVG}text")
    ]
    for i in range(6):
        assert any(t.startswith("…") and t.endswith(f"-{i}") and len(t) <= 12 for t in texts)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | *x*"
    for lag in (0, 4):
        run(tmp_path / "runs" / f"r{lag}", lag=lag, label=f"{hostile} target_lag={lag}")
        run(tmp_path / "runs" / f"s{lag}", lag=lag, label=f"b target_lag={lag}", seed=0)
    files = write(tmp_path / "runs")
    page = Page(files["html"])
    assert "script" not in page.tags
    assert hostile in page.text
    assert "<script" not in files["svg"]
    assert "<script" not in files["md"].replace("\\<", "")


def test_settings_of_any_depth_have_texts() -> None:
    config = {"model": "m", "a": {"b": {"c": 1.0}, "d": None}}
    assert [setting_text(config, n) for n in ("model", "a.b.c", "a.d")] == ["m", "1", "null"]
    assert [setting_text(config, n) for n in ("a", "a.x", "model.x", "a.d.e")] == [None] * 4
