"""Grouping, statistics and tables of a comparison."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.telemetry.estimate import Estimate, estimate, t_quantile
from asyncds.telemetry.group_comparison import (
    GroupComparison,
    Metric,
    NotComparableError,
    compare_groups,
)
from asyncds.telemetry.group_curves import metric_curves, pass_at_k, pass_curves
from asyncds.telemetry.run_groups import group_runs, settings
from asyncds.telemetry.run_results import (
    LeftOut,
    NotARunError,
    RunResult,
    find_runs,
    read_result,
)
from tests.support.synthetic_runs import small_run

GRPO = {"algorithm": {"advantage": {"kind": "grpo"}}}


def ds(**values: Any) -> dict[str, Any]:
    return {"algorithm": {"advantage": {"kind": "ds_grpo", **values}}}


def results(root: Path) -> list[RunResult]:
    read = [read_result(path) for path in find_runs([root])]
    return [one for one in read if isinstance(one, RunResult)]


def compared(root: Path, baseline: str | None = None) -> GroupComparison:
    return compare_groups(group_runs(results(root)), baseline=baseline)


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


def test_means_over_runs(tmp_path: Path) -> None:
    sweep(tmp_path)
    [table] = compared(tmp_path).results
    keys = [m.key for m in table.metrics]
    passes = ["pass@1", "pass@4", "pass@16", "pass@64"]
    assert keys == [*passes, "distinct_correct", "distinct/commutative"]
    grpo = [r for r in results(tmp_path) if r.config["algorithm"]["advantage"]["kind"] == "grpo"]
    for key in ("1", "64"):
        shares = [r.summary["eval"][-1]["pass@k"][key] for r in grpo]
        found = table.rows[0].values[f"pass@{key}"]
        assert (table.rows[0].label, table.rows[0].n) == ("advantage.kind=grpo", 6)
        assert found == estimate(shares)
        assert found.mean == fmean(shares)
    assert table.base is not None
    assert table.base.n == 6
    base = [r.summary["eval"][0]["pass@k"]["1"] for r in grpo]
    assert table.base.values["pass@1"].mean == pytest.approx(fmean(base))


def test_pairs_cancel_what_base_and_seed_share(tmp_path: Path) -> None:
    sweep(tmp_path)
    [table] = compared(tmp_path).results
    [row] = table.paired
    assert row.label == "advantage.kind=ds_grpo"
    assert [(p.base, p.seed) for p in row.pairs] == [
        (base, seed) for base in ("models/a", "models/b") for seed in (0, 1, 2)
    ]
    difference, alone = row.values["pass@1"], table.rows[1].values["pass@1"]
    # The gains are 0.2 and 0.3 of a curve that has come to 1 − e⁻⁴.
    assert difference.mean == pytest.approx(0.1 * (1 - math.exp(-4)))
    assert difference.half is not None
    assert alone.half is not None
    assert difference.half < 1e-9 < alone.half


def test_another_baseline_turns_the_sign(tmp_path: Path) -> None:
    sweep(tmp_path)
    there = compared(tmp_path).results[0].paired[0].values["pass@1"].mean
    back = compared(tmp_path, "advantage.kind=ds_grpo").results[0].paired[0]
    assert back.label == "advantage.kind=grpo"
    assert back.values["pass@1"].mean == pytest.approx(-there)


def test_only_shared_pairs_are_paired(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", seed=0, **GRPO)
    small_run(tmp_path / "r1", seed=1, **GRPO)
    small_run(tmp_path / "r2", seed=1, **ds())
    small_run(tmp_path / "r3", seed=2, **ds())
    small_run(tmp_path / "r4", seed=1, base="models/b", **ds())
    [table] = compared(tmp_path).results
    assert [(p.base, p.seed) for p in table.paired[0].pairs] == [("models/a", 1)]
    assert [row.n for row in table.rows] == [2, 3]


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
    warm, cool = compared(tmp_path).results
    assert [t.temperature for t in (warm, cool)] == [1.0, 0.6]
    assert [len(t.rows) for t in (cool, warm)] == [1, 2]
    assert [len(t.paired) for t in (cool, warm)] == [0, 1]
    assert cool.rows[0].values["pass@1"].mean > warm.rows[0].values["pass@1"].mean


def test_evaluations_that_do_not_say_their_temperature(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", temperatures=(None,), **GRPO)
    [table] = compared(tmp_path).results
    assert (table.title, table.temperature) == ("Result", None)


def test_only_common_ks_are_compared(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", ks=(1, 4, 16), **GRPO)
    small_run(tmp_path / "r1", ks=(4, 16, 64), **ds())
    [table] = compared(tmp_path).results
    assert [m.key for m in table.metrics][:2] == ["pass@4", "pass@16"]
    small_run(tmp_path / "r2", ks=(1,), label="other")
    with pytest.raises(
        NotComparableError, match=r"no k of Pass@k is common to all runs: .*/r0 has"
    ):
        compared(tmp_path)


def test_distinct_answers_of_unequal_samples_are_not_compared(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", **GRPO)
    run = small_run(tmp_path / "r1", **ds())
    edit(run, lambda s: [e.update(n_samples=32) for e in s["eval"]])
    assert [m.key for m in compared(tmp_path).results[0].metrics][-1] == "pass@64"


def test_costs(tmp_path: Path) -> None:
    small_run(tmp_path / "r0", wall=100, **GRPO)
    small_run(tmp_path / "r1", wall=80, **ds())
    costs = compared(tmp_path).costs
    shown = [m.text(costs.rows[1].values.get(m.key)) for m in costs.metrics]
    assert shown == ["1.50", "3.0", "80", "50"]
    assert costs.paired[0].values["wall_seconds"].mean == -20


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
    groups = group_runs(results(tmp_path))
    reward = metric_curves(groups, "reward")
    assert [(c.label, c.x) for c in reward] == [(g.label, (1, 2, 3, 4)) for g in groups]
    first = [run.lines[0]["reward"] for run in groups[0].runs]
    assert (reward[0].mean[0], reward[0].half[0]) == (estimate(first).mean, estimate(first).half)
    assert metric_curves(groups, "no such key") == []
    [base, _, result] = pass_curves(groups, 1.0, "1")[1].mean
    assert base < result


def test_pass_at_k_over_k(tmp_path: Path) -> None:
    sweep(tmp_path)
    comparison = compared(tmp_path)
    base, grpo, _ = pass_at_k(comparison, comparison.results[0])
    assert (base.label, base.group, grpo.group) == ("base", None, 0)
    assert grpo.x == (1, 4, 16, 64)
    assert list(grpo.mean) == sorted(grpo.mean)


def test_interim_evaluations_may_lack_the_larger_ks(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r0", **GRPO)
    edit(run, lambda s: s["eval"][1].update({"pass@k": {"1": 0.3}, "n_samples": 4}))
    groups = group_runs(results(tmp_path))
    assert pass_curves(groups, 1.0, "64")[0].x == (0, 4)
    assert pass_curves(groups, 1.0, "1")[0].x == (0, 2, 4)
