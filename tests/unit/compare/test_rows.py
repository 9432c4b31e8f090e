"""Files of rows: what they keep of runs, and that they stand for them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.compare.comparison import compare
from asyncds.compare.report import markdown
from asyncds.compare.rows import RowsError, flatten, read_rows, read_runs, unflatten, write_rows
from asyncds.compare.runs import LeftOut, NotARunError, RunResult, make_result
from tests.support.comparisons import results
from tests.support.synthetic_runs import small_run


def runs(root: Path) -> dict[str, RunResult]:
    for label, gain in (("x", 0.2), ("y", 0.3)):
        for seed in (0, 1):
            small_run(root / f"{label}{seed}", seed=seed, gain=gain, label=label)
    return {Path(run.path).name: run for run in results(root)}


def test_a_file_of_rows_compares_as_its_runs_do(tmp_path: Path) -> None:
    made = runs(tmp_path / "runs")
    write_rows(tmp_path / "rows.jsonl", made)
    read = read_runs([tmp_path / "rows.jsonl"])
    assert [one.config for one in read] == [one.config for one in made.values()]
    assert markdown(compare(read), []) == markdown(compare(list(made.values())), [])


def test_what_all_runs_share_is_written_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", runs(tmp_path / "runs"))
    first, *others = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert first["common"]["rollout.max_lag"] == 4
    assert others[1]["settings"] == {"name": "x1", "label": "x", "seed": 1}
    assert "pass@k_interval" not in others[0]["summary"]["eval"][0]


def test_runs_and_rows_mix_and_what_can_not_be_compared_is_named(tmp_path: Path) -> None:
    made = runs(tmp_path / "runs")
    alone = made["y1"]
    made["y1"] = make_result(
        "y1", alone.config, alone.summary | {"eval": alone.summary["eval"][:1]}, []
    )
    write_rows(tmp_path / "rows.jsonl", made)
    read = read_runs([tmp_path / "rows.jsonl", tmp_path / "runs"])
    assert [isinstance(one, LeftOut) for one in read] == [False] * 3 + [True] + [False] * 4
    assert read[3].path.endswith("rows.jsonl/y1")


def test_the_file_is_read_or_refused_whole(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == {}
    with pytest.raises(NotARunError):
        read_runs([tmp_path / "none.jsonl"])
    for text in ("", "{}\n", "[1]\n", '{"common": {}}\n{"name": "x"}\n', "\x00"):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(RowsError, match=r"bad.jsonl is neither a run directory nor a file of"):
            read_runs([tmp_path / "bad.jsonl"])


names = st.text("abc", min_size=1, max_size=2)
values = st.one_of(st.booleans(), st.integers(0, 1), st.floats(0, 1), st.none(), st.just([]))
trees = st.recursive(values, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
configs = st.lists(st.dictionaries(names, trees, max_size=3), min_size=1, max_size=5)


@given(configs)
def test_any_configurations_come_back_whole(
    tmp_path_factory: pytest.TempPathFactory, given: list[dict[str, Any]]
) -> None:
    """True is not 1, and an empty section is there."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = {
        str(i): make_result(str(i), {"model": "m", "seed": 0, "of": one}, {"eval": []}, [])
        for i, one in enumerate(given)
    }
    write_rows(path, made)
    back = [run.config["of"] for run in read_rows(path).values()]
    assert json.dumps(back, sort_keys=True) == json.dumps(given, sort_keys=True)
    assert all(unflatten(flatten(one)) == one for one in given)
