"""Grouping, statistics and tables of a comparison."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.compare.charts import metric_curves, pass_curves
from asyncds.compare.comparison import NotComparableError
from asyncds.compare.estimate import Estimate, estimate, t_quantile
from asyncds.compare.groups import group_runs, settings
from asyncds.compare.metrics import Metric, metric_of
from asyncds.compare.report import markdown
from asyncds.compare.runs import LeftOut, NotARunError, RunResult, find_runs, read_result
from tests.support.comparisons import compared, means, results, row, tables, values
from tests.support.synthetic_runs import small_run

GRPO = {"algorithm": {"advantage": {"kind": "grpo"}}}


def ds(**values: Any) -> dict[str, Any]:
    return {"algorithm": {"advantage": {"kind": "ds_grpo", **values}}}


# --- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
)
def test_t_quantiles_are_those_of_the_tables(degrees: int, t: float) -> None:
    assert t_quantile(degrees) == pytest.approx(t, abs=6e-4)


def test_an_interval_of_three_values() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_one_value_has_no_interval() -> None:
    assert estimate([5.0]) == Estimate(mean=5.0, half=None, n=1)
    assert not estimate([5.0]).known_sign


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40), st.floats(-100, 100))
def test_an_interval_moves_with_its_values(values: list[float], shift: float) -> None:
    here, there = estimate(values), estimate([v + shift for v in values])
    assert here.half is not None
    assert here.half == pytest.approx(
        t_quantile(len(values) - 1) * stdev(values) / len(values) ** 0.5
    )
    assert there.mean == pytest.approx(here.mean + shift, abs=1e-6)
    assert there.half == pytest.approx(here.half, abs=1e-6)


# --- evaluation sets ----------------------------------------------------------------------------

SETS = {"AIME": 0.25, "MATH": 1.5}


def test_every_evaluation_set_has_its_own_columns(tmp_path: Path) -> None:
    for seed in (0, 1):
        small_run(tmp_path / f"g{seed}", seed=seed, sets=SETS, **GRPO)
        small_run(tmp_path / f"d{seed}", seed=seed, sets=SETS, gain=0.2, **ds(gamma_p=1))
    comparison = compared(tmp_path, baseline="advantage.kind=grpo")
    found = tables(comparison)
    title = "Result at temperature 1, by evaluation set"
    assert list(found)[:4] == [
        "Result at temperature 1",
        "Result at temperature 1, less advantage.kind=grpo",
        title,
        f"{title}, less advantage.kind=grpo",
    ]
    assert [column.heading for column in found[title].columns] == [
        *("AIME Pass@1", "AIME Pass@64", "MATH Pass@1", "MATH Pass@64")
    ]
    pooled = means(found["Result at temperature 1"], "advantage.kind=grpo")[0]
    aime, _, maths, _ = means(found[title], "advantage.kind=grpo")
    assert (0.25 * pooled.expected, 1.5 * pooled.expected) == (aime, maths)
    ids = set(comparison.rows["metric"])
    assert {"AIME:pass@1 T1", "AIME:pass@mean T1", "pass@1 T1"} <= ids
    for id in ("AIME:pass@1 T1", "MATH:pass@64 T1", "n_failed T1"):
        assert metric_of(id).id == id
    assert "AIME Pass@1" in markdown(comparison, [])


def test_a_set_that_one_run_lacks_and_a_single_one_have_no_columns(tmp_path: Path) -> None:
    small_run(tmp_path / "a", sets={"AIME": 0.5}, **GRPO)
    small_run(tmp_path / "b", sets=SETS, **ds(gamma_p=1))
    assert not [title for title in tables(compared(tmp_path)) if "evaluation set" in title]


def test_problems_that_were_left_out_are_a_column_of_the_comparison(tmp_path: Path) -> None:
    run = small_run(tmp_path / "a", **GRPO)
    assert "problems left out" not in markdown(compared(tmp_path), [])
    edit(run, lambda summary: [e.update(n_failed=3) for e in summary["eval"]])
    comparison = compared(tmp_path)
    table = tables(comparison)["Result at temperature 1"]
    assert table.columns[-1].heading == "problems left out"
    assert means(table, comparison.groups[0].label)[-1] == 3


# --- finding and reading runs -------------------------------------------------------------------


def test_runs_are_found_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b/two", "b/one", "a"):
        small_run(tmp_path / name)
    (tmp_path / "0-latest").symlink_to(tmp_path / "a")
    (tmp_path / "notes.txt").write_text("no run")
    found = find_runs([tmp_path / "b" / "two", tmp_path, tmp_path / "0-latest"])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["b/two", "a", "b/one"]


def test_a_path_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(NotARunError, match="is not a run directory and holds none"):
            find_runs([path])


def without_base(summary: dict[str, Any]) -> None:
    summary["eval"] = summary["eval"][-1:]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "summary.json").unlink(), "has no summary.json yet"),
        (lambda run: (run / "summary.json").write_text("{"), "can't be read"),
        (lambda run: (run / "metrics.jsonl").write_text("{\n"), "can't be read"),
        (lambda run: (run / "config.yaml").write_text(": ["), "can't be read"),
        (lambda run: (run / "config.yaml").write_text("name: x"), "names no model"),
        (lambda run: edit(run, lambda s: s.update(status="failed")), "its status is failed"),
        (lambda run: edit(run, lambda s: s.update(status="interrupted")), "status is interrupted"),
        (lambda run: edit(run, without_base), "were not both evaluated"),
    ],
)
def test_what_is_left_out_has_a_reason(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    run = small_run(tmp_path / "run")
    assert isinstance(read_result(run), RunResult)
    spoil(run)
    found = read_result(run)
    assert isinstance(found, LeftOut)
    assert reason in found.reason
    assert "\n" not in found.reason


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    change(summary)
    (run / "summary.json").write_text(json.dumps(summary))


# --- grouping -----------------------------------------------------------------------------------


def test_base_seed_name_and_machine_make_no_group(tmp_path: Path) -> None:
    small_run(tmp_path / "a")
    small_run(tmp_path / "b", seed=1, base="models/b", runs_dir="elsewhere")
    small_run(
        tmp_path / "c",
        coordinator={"port": 4000},
        telemetry={"port": 5000},
        generator={"cpu_threads": 7},
        learner={"cpu_threads": 2},
    )
    [group] = group_runs(results(tmp_path))
    assert (group.label, group.settings, len(group.runs)) == ("all runs", {}, 3)


def test_labels_are_the_settings_that_differ(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", **GRPO)
    small_run(tmp_path / "r1", **ds(gamma_p=0.1))
    small_run(tmp_path / "r2", **ds(gamma_p=1), rollout={"max_lag": 0})
    small_run(tmp_path / "r3", seed=1, **GRPO)
    groups = group_runs(results(tmp_path))
    assert [(g.label, len(g.runs)) for g in groups] == [
        ("max_lag=4 advantage.kind=grpo", 2),
        ("max_lag=4 advantage.kind=ds_grpo gamma_p=0.1", 1),
        ("max_lag=0 advantage.kind=ds_grpo gamma_p=1", 1),
    ]
    assert groups[1].settings == {
        "rollout.max_lag": 4,
        "algorithm.advantage.kind": "ds_grpo",
        "algorithm.advantage.gamma_p": 0.1,
    }


def test_settings_of_a_kind_are_compared_within_it(tmp_path: Path) -> None:
    """best_of_group has a scale too; that it is another says nothing about grpo."""
    small_run(tmp_path / "r0", algorithm={"advantage": {"kind": "grpo", "scale": "none"}})
    small_run(tmp_path / "r1", algorithm={"advantage": {"kind": "best_of_group", "scale": "std"}})
    labels = [g.label for g in group_runs(results(tmp_path))]
    assert labels == ["advantage.kind=grpo", "advantage.kind=best_of_group"]


def test_a_setting_that_only_some_have(tmp_path: Path) -> None:
    """The configuration of an earlier version, or of a free-form section."""
    small_run(tmp_path / "r0")
    small_run(tmp_path / "r1", learner={"deepspeed": {"zero_optimization": {"offload": True}}})
    first, second = group_runs(results(tmp_path))
    assert first.label != second.label
    assert second.label == "offload=true"


def test_names_are_as_short_as_they_are_unique(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", rollout={"groups_per_step": 4, "lease_seconds": 400})
    small_run(
        tmp_path / "r1", rollout={"groups_per_step": 8, "lease_seconds": 400}, eval={"every": 2}
    )
    assert [g.label for g in group_runs(results(tmp_path))] == [
        "groups_per_step=4 eval.every=0",
        "groups_per_step=8 eval.every=2",
    ]


def test_a_label_of_ones_own(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", label="tuned", **ds(gamma_p=0.1))
    small_run(tmp_path / "r1", label="tuned", seed=1, **ds(gamma_p=1))
    small_run(tmp_path / "r2", **GRPO)
    groups = group_runs(results(tmp_path))
    assert [(g.label, len(g.runs)) for g in groups] == [("tuned", 2), ("advantage.kind=grpo", 1)]


names = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8
)


@given(st.lists(st.dictionaries(names, trees, max_size=3), min_size=1, max_size=5))
def test_any_configurations_make_groups_that_hold_every_run_once(
    configs: list[dict[str, Any]],
) -> None:
    runs = [
        RunResult(path=str(i), base="m", seed=i, config=config, summary={"eval": []}, lines=[])
        for i, config in enumerate(configs)
    ]
    groups = group_runs(runs)
    assert sorted(r.path for g in groups for r in g.runs) == sorted(r.path for r in runs)
    assert len({json.dumps(g.settings, sort_keys=True) for g in groups}) == len(groups)
    for group in groups:
        assert len({json.dumps(settings(r.config), sort_keys=True) for r in group.runs}) == 1


# --- tables -------------------------------------------------------------------------------------


def sweep(root: Path, **options: Any) -> None:
    for base in ("models/a", "models/b"):
        for seed in (0, 1, 2):
            for name, gain, algorithm in (("x", 0.2, GRPO), ("y", 0.3, ds())):
                directory = root / f"{name}-{base[-1]}-{seed}"
                small_run(directory, base=base, seed=seed, gain=gain, **algorithm, **options)


RESULT = "Result at temperature 1"
LESS = "Result at temperature 1, less advantage.kind=grpo"
PASSES = ["pass@1 T1", "pass@4 T1", "pass@16 T1", "pass@64 T1"]


def ids(root: Path, title: str = RESULT) -> list[str]:
    return [column.metric.id for column in tables(compared(root))[title].columns]


def test_means_over_runs(tmp_path: Path) -> None:
    sweep(tmp_path)
    table = tables(compared(tmp_path))[RESULT]
    assert ids(tmp_path) == [*PASSES, "distinct_correct T1", "distinct/commutative T1"]
    grpo = [r for r in results(tmp_path) if r.config["algorithm"]["advantage"]["kind"] == "grpo"]
    assert [(r.label, r.n) for r in table.rows] == [
        ("base", 2),
        ("advantage.kind=grpo", 6),
        ("advantage.kind=ds_grpo", 6),
    ]
    for key, found in (
        ("1", values(table, "advantage.kind=grpo")[0]),
        ("64", values(table, "advantage.kind=grpo")[3]),
    ):
        shares = [r.summary["eval"][-1]["pass@k"][key] for r in grpo]
        assert found == estimate(shares)
        assert found.mean == fmean(shares)


def test_base_models_count_once_and_have_no_interval(tmp_path: Path) -> None:
    """Their seeds evaluate the same weights: they are no draws."""
    small_run(tmp_path / "a0", base="models/a", seed=0)
    small_run(tmp_path / "a1", base="models/a", seed=1)
    small_run(tmp_path / "b0", base="models/b", seed=0)
    first = [r.summary["eval"][0]["pass@k"]["1"] for r in results(tmp_path)]
    found = values(tables(compared(tmp_path))[RESULT], "base")[0]
    assert found == Estimate(
        mean=pytest.approx(fmean([fmean(first[:2]), first[2]])), half=None, n=2
    )
    assert row(tables(compared(tmp_path))[RESULT], "base").count == ""


def test_pairs_cancel_what_base_and_seed_share(tmp_path: Path) -> None:
    sweep(tmp_path)
    found = tables(compared(tmp_path))
    table = found[LESS]
    assert [r.label for r in table.rows] == ["advantage.kind=ds_grpo"]
    assert [(p.base, p.seed) for p in table.pairs] == [
        (base, seed) for base in ("a", "b") for seed in (0, 1, 2)
    ]
    difference = values(table, "advantage.kind=ds_grpo")[0]
    alone = values(found[RESULT], "advantage.kind=ds_grpo")[0]
    # The gains are 0.2 and 0.3 of a curve that has come to 1 − e⁻⁴.
    assert difference.mean == pytest.approx(0.1 * (1 - math.exp(-4)))
    assert difference.half < 1e-9 < alone.half
    assert row(table, "advantage.kind=ds_grpo").cells[0].verdict == "better"


def test_another_baseline_turns_the_sign(tmp_path: Path) -> None:
    sweep(tmp_path)
    there = means(tables(compared(tmp_path))[LESS], "advantage.kind=ds_grpo")[0].expected
    back = tables(compared(tmp_path, "advantage.kind=ds_grpo"))
    table = back["Result at temperature 1, less advantage.kind=ds_grpo"]
    assert means(table, "advantage.kind=grpo")[0] == -there


def test_only_shared_pairs_are_paired(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", seed=0, **GRPO)
    small_run(tmp_path / "r1", seed=1, **GRPO)
    small_run(tmp_path / "r2", seed=1, **ds())
    small_run(tmp_path / "r3", seed=2, **ds())
    small_run(tmp_path / "r4", seed=1, base="models/b", **ds())
    found = tables(compared(tmp_path))
    assert [(p.base, p.seed) for p in found[LESS].pairs] == [("a", 1)]
    assert [r.n for r in found[RESULT].rows] == [2, 2, 3]


def test_runs_of_one_pair_are_averaged_before_they_are_paired(tmp_path: Path) -> None:
    for i, (kind, gain) in enumerate(((GRPO, 0.1), (GRPO, 0.3), (ds(), 0.3))):
        small_run(tmp_path / f"r{i}", gain=gain, **kind)
    found = tables(compared(tmp_path))[LESS]
    assert means(found, "advantage.kind=ds_grpo")[0] == 0.1 * (1 - math.exp(-4))
    assert len(found.pairs) == 1


def test_an_unknown_baseline_is_told_the_labels(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(NotComparableError) as error:
        compared(tmp_path, "dapo")
    assert str(error.value) == (
        "there is no group 'dapo' to be the baseline: there is 'advantage.kind=grpo', "
        "'advantage.kind=ds_grpo'"
    )


def test_every_temperature_has_a_table(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", temperatures=(1.0, 0.6), **GRPO)
    small_run(tmp_path / "r1", temperatures=(1.0,), **ds())
    found = tables(compared(tmp_path))
    cool = found["Result at temperature 0.6"]
    assert list(found) == [
        RESULT,
        LESS,
        cool.title,
        "Training",
        "Training, less advantage.kind=grpo",
    ]
    assert [r.label for r in cool.rows] == ["base", "advantage.kind=grpo"]
    warm = values(found[RESULT], "advantage.kind=grpo")[0]
    assert values(cool, "advantage.kind=grpo")[0].mean > warm.mean


def test_evaluations_that_do_not_say_their_temperature(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", temperatures=(None,), **GRPO)
    assert list(tables(compared(tmp_path))) == ["Result", "Training"]


def test_only_common_ks_are_compared(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", ks=(1, 4, 16), **GRPO)
    small_run(tmp_path / "r1", ks=(4, 16, 64), **ds())
    assert ids(tmp_path)[:3] == ["pass@4 T1", "pass@16 T1", "distinct_correct T1"]
    small_run(tmp_path / "r2", ks=(1,), label="other")
    with pytest.raises(
        NotComparableError, match=r"no k of Pass@k is common to all runs: .*/r0 has"
    ):
        compared(tmp_path)


def test_distinct_answers_of_unequal_samples_are_not_compared(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", **GRPO)
    run = small_run(tmp_path / "r1", **ds())
    edit(run, lambda s: [e.update(n_samples=32) for e in s["eval"]])
    assert ids(tmp_path)[-1] == "pass@64 T1"


def test_a_cell_says_how_many_runs_it_is_of_where_that_is_another_number(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        small_run(tmp_path / f"r{seed}", seed=seed)
    edit(tmp_path / "r2", lambda s: s.update(tokens_per_second=None))
    cells = tables(compared(tmp_path))["Training"].rows[0].cells
    assert [(c.value.n, "(n=2)" in c.text) for c in cells] == [
        (3, False),
        (3, False),
        (3, False),
        (2, True),
        (3, False),
    ]


def test_costs(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", wall=100, **GRPO)
    small_run(tmp_path / "r1", wall=80, **ds())
    found = tables(compared(tmp_path))
    shown = [cell.text for cell in row(found["Training"], "advantage.kind=ds_grpo").cells]
    assert shown == ["1.50", "3.0", "80", "50", "0.970"]
    apart = row(found["Training, less advantage.kind=grpo"], "advantage.kind=ds_grpo")
    assert apart.cells[2].value.mean == -20


def test_how_numbers_are_shown() -> None:
    share = Metric(key="x", name="X", better=1, scale=100, digits=1)
    assert share.text(Estimate(mean=0.4021, half=0.013, n=3)) == "40.2 ± 1.3"
    assert share.text(Estimate(mean=0.4021, half=None, n=1), signed=True) == "+40.2"
    assert share.text(None) == "–"
    up, unclear = Estimate(mean=0.2, half=0.1, n=3), Estimate(mean=0.2, half=0.3, n=3)
    less = Metric(key="x", name="X", better=-1)
    assert [share.verdict(up), less.verdict(up), share.verdict(unclear)] == ["better", "worse", ""]


# --- curves -------------------------------------------------------------------------------------


def test_curves_are_means_over_runs_at_each_step(tmp_path: Path) -> None:
    sweep(tmp_path)
    comparison = compared(tmp_path)
    reward = metric_curves(comparison, "reward")
    assert [(c.label, c.x) for c in reward] == [(g.label, (1, 2, 3, 4)) for g in comparison.groups]
    first = estimate([run.lines[0]["reward"] for run in comparison.groups[0].runs])
    assert (reward[0].mean[0], reward[0].half[0]) == (first.mean, first.half)
    assert metric_curves(comparison, "no such key") == []
    [base, _, result] = pass_curves(comparison, 1.0, "1")[1].mean
    assert base < result


def test_interim_evaluations_may_lack_the_larger_ks(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r0", **GRPO)
    edit(run, lambda s: s["eval"][1].update({"pass@k": {"1": 0.3}, "n_samples": 4}))
    assert pass_curves(compared(tmp_path), 1.0, "64")[0].x == (0, 4)
    assert pass_curves(compared(tmp_path), 1.0, "1")[0].x == (0, 2, 4)


def test_neither_the_coordinator_nor_a_run_waits_for_pandas() -> None:
    code = (
        "import sys, services.coordinator.main, asyncds.cli.run, asyncds.cli.sweep;"
        "print([m for m in ('pandas', 'mpmath') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_evaluations_without_training_are_results_that_tasks_pair(tmp_path: Path) -> None:
    small_run(tmp_path / "run", label="trained")
    for name, gain in (("a-eval", 0.0), ("b-eval", 0.2)):
        for task in ("sums", "puzzles"):
            directory = small_run(
                tmp_path / name / task, base=name, gain=gain, label=name, wall=1.0
            )
            config = (directory / "config.yaml").read_text().replace("steps: 4", "steps: 0", 1)
            (directory / "config.yaml").write_text(config)
            summary = json.loads((directory / "summary.json").read_text())
            (directory / "summary.json").write_text(
                json.dumps(summary | {"eval": summary["eval"][-1:]})
            )
    found = compared(tmp_path)
    assert [group.label for group in found.groups] == ["a-eval", "b-eval", "trained"]
    _, apart = found.less("baseline")
    assert [(one.group, one.base) for one in apart] == [(1, "puzzles"), (1, "sums")]
    reached = {run.path: run.ends(1.0) for run in found.runs}
    for one in apart:
        a, b = (
            reached[str(tmp_path / n / one.base)][-1]["pass@k"]["1"] for n in ("a-eval", "b-eval")
        )
        assert one.values[0, "pass@1 T1"] == pytest.approx(b - a)
    along = compared(tmp_path, over="name")
    assert {"sums", "puzzles"} <= {*along.values}
    (base,) = {value.n for (_, key), value in found.base_means().items() if key == "pass@1 T1"}
    assert base == 1, "of the run that was trained alone"
