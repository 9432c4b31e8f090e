from pathlib import Path

import pytest

from benchmarks import measured
from benchmarks.measured import Row


def test_a_ratio_is_above_one_where_the_side_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "DATA", tmp_path / "data")
    monkeypatch.setattr(measured, "PAGE", tmp_path / "page.md")
    rows = [
        Row(case="update", side="ours", values=[10, 20], unit="ms", better="lower"),
        Row(case="update", side="theirs", values=[30, 30], unit="ms", better="lower"),
        Row(case="run", side="ours", values=[1500], unit="rollouts/s"),
        Row(case="run", side="theirs", values=[1000], unit="rollouts/s"),
    ]
    measured.save("name", rows)
    lines = [
        "| | | mean | ratio | of repeats |",
        "|---|---|--:|--:|---|",
        "| update | ours | 15 ms | 2.00 | 1.50 to 3.00 |",
        "| update | theirs | 30 ms |  |  |",
        "| run | ours | 1,500 rollouts/s | 1.50 | one |",
        "| run | theirs | 1,000 rollouts/s |  |  |",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    measured.PAGE.write_text("before\n<!-- benchmark: name -->\nold\n<!-- end -->\nafter\n")
    measured.write_page()
    page = measured.PAGE.read_text().splitlines()
    assert page[:2] == ["before", "<!-- benchmark: name -->"]
    assert page[2:8] == lines
    assert page[-2:] == ["<!-- end -->", "after"]


def test_the_page_shows_the_rows_that_are_there() -> None:
    before = measured.PAGE.read_text()
    measured.write_page()
    assert measured.PAGE.read_text() == before, "python -m benchmarks.measured"
