"""The files and charts of a comparison."""

import json
import math
import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import example, given
from hypothesis import strategies as st

from asyncds.compare.report import write_comparison
from asyncds.compare.runs import LeftOut
from asyncds.telemetry.charts import (
    BOTTOM,
    HEIGHT,
    MARK_HEIGHT,
    MARK_RADIUS,
    MARK_WIDTH,
    TOP,
    WIDTH,
    Line,
    Point,
    line_chart,
    scatter_chart,
)
from tests.support.comparisons import compared, row, tables
from tests.support.html_page import Page
from tests.support.synthetic_runs import small_run

HOSTILE = "<script>alert(1)</script> | *x*"
SVG = "{http://www.w3.org/2000/svg}"


def sweep(root: Path, *, groups: int = 3, temperatures: tuple[float, ...] = (1.0,)) -> None:
    for i in range(groups):
        for base in ("models/a", "models/b"):
            for seed in (0, 1):
                small_run(
                    root / f"r{i:02}-{base[-1]}-{seed}",
                    base=base,
                    seed=seed,
                    gain=0.2 + 0.02 * i,
                    steps=40,
                    temperatures=temperatures,
                    label=f"way {chr(65 + i)}",
                )


def write(root: Path, *left_out: LeftOut) -> dict[str, str]:
    written = write_comparison(compared(root / "runs"), left_out, root / "made" / "out")
    assert [path.name for path in written] == [
        f"compare.{e}" for e in ("html", "md", "svg", "json")
    ]
    return {path.suffix[1:]: path.read_text() for path in written}


def test_the_page(tmp_path: Path) -> None:
    sweep(tmp_path / "runs")
    files = write(tmp_path, LeftOut(path="runs/lost", reason="its status is failed"))
    page = Page(files["html"])
    for text in (
        "3 groups of runs",
        "Baseline: way A",
        "runs/lost: its status is failed",
        "Pass@1 against Pass@64",
        "Pass@k over k",
        "Pass@64 while training",
        "Reward",
        "Entropy",
        "Distinct correct answers",
        "Result at temperature 1, less way A",
        "Training, less way A",
        "r02-b-1",
    ):
        assert text in page.text, text
    assert page.tags.count("svg") == 7
    # A row per group and pair: means and differences, twice, then the pairs, then the runs.
    assert page.tags.count("tr") == (1 + 1 + 3) + (1 + 2) + (1 + 8) + 4 + 3 + 9 + (1 + 12)


def test_it_needs_no_network_and_no_script(tmp_path: Path) -> None:
    sweep(tmp_path / "runs")
    files = write(tmp_path)
    page = Page(files["html"])
    assert page.links == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    for text in (files["html"], files["svg"]):
        assert "url(" not in text
        assert "@import" not in text


def test_what_a_person_wrote_is_text(tmp_path: Path) -> None:
    small_run(tmp_path / "runs" / "a", label=HOSTILE)
    small_run(tmp_path / "runs" / "b")
    files = write(tmp_path, LeftOut(path=HOSTILE, reason=HOSTILE))
    page = Page(files["html"])
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 4
    assert "<script" not in files["svg"]
    assert HOSTILE in "".join(ElementTree.fromstring(files["svg"]).itertext())
    assert "<script" not in files["md"].replace("\\<", "")
    table = [line for line in files["md"].splitlines() if line.startswith("| \\<script")]
    assert table
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8, 9}


def test_every_color_and_class_of_a_chart_is_defined(tmp_path: Path) -> None:
    sweep(tmp_path / "runs", groups=14)
    files = write(tmp_path)
    for text in (files["html"], files["svg"]):
        used = set(re.findall(r"var\((--\w+)\)", text))
        assert used <= set(re.findall(r"(--\w+):", text))
        assert {f"--c{i}" for i in range(13)} <= used
        for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
            classes = set(re.findall(r'class="(\w+)"', svg))
            assert all(f".{name} {{" in text for name in classes), classes


def test_groups_of_one_colour_are_drawn_in_other_ways(tmp_path: Path) -> None:
    for i in range(26):
        small_run(tmp_path / "runs" / f"r{i:02}", label=f"way {i:02}", gain=0.2 + 0.01 * i)
    files = write(tmp_path)
    picture = ElementTree.fromstring(files["svg"])
    over_k = picture.findall(f"{SVG}svg")[1]
    lines = [e.get("style") for e in over_k if e.get("class") == "line"]
    assert len(set(lines)) == len(lines) == 27
    legend = [e.get("style", "") for e in picture if e.get("class") == "mark"]
    assert ["var(--card)" in style for style in legend] == [False] * 13 + [True] * 14
    chips = re.findall(r'class="chip" style="(.*?)"', files["html"])
    assert len(set(chips)) == 27


def test_the_same_runs_make_the_same_files(tmp_path: Path) -> None:
    sweep(tmp_path / "runs")
    assert write(tmp_path) == write(tmp_path)


def test_the_picture_has_a_row_per_temperature(tmp_path: Path) -> None:
    sweep(tmp_path / "runs", temperatures=(0.6, 1.0))
    picture = ElementTree.fromstring(write(tmp_path)["svg"])
    assert len(picture.findall(f"{SVG}svg")) == 4
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert "Pass@1 against Pass@64, temperature 0.6" in texts
    legend = [e.text for e in picture.findall(f"{SVG}text") if e.get("class") == "label"]
    assert legend == ["base", "way A", "way B", "way C"]


def test_the_numbers(tmp_path: Path) -> None:
    sweep(tmp_path / "runs")
    numbers = json.loads(write(tmp_path, LeftOut(path="p", reason="r"))["json"])
    assert numbers["baseline"] == "way A"
    assert numbers["left_out"] == [{"path": "p", "reason": "r"}]
    assert [len(group["runs"]) for group in numbers["groups"]] == [4, 4, 4]
    assert [t["title"] for t in numbers["tables"]] == list(tables(compared(tmp_path / "runs")))
    table = tables(compared(tmp_path / "runs"))["Result at temperature 1"]
    assert numbers["tables"][0]["metrics"][3] == "pass@64 T1"
    found = row(table, "way C").cells[3].value
    assert numbers["tables"][0]["rows"][3]["label"] == "way C"
    assert numbers["tables"][0]["rows"][3]["cells"][3] == {
        "mean": found.mean,
        "half": found.half,
        "n": 4,
    }
    assert {"Reward", "Entropy", "Pass@k over k"} <= set(numbers["curves"])
    assert {r["stage"] for r in numbers["rows"]} == {"base", "result"}


def test_the_markdown_table(tmp_path: Path) -> None:
    sweep(tmp_path / "runs")
    text = write(tmp_path)["md"]
    table = tables(compared(tmp_path / "runs"))["Result at temperature 1"]
    line = next(line for line in text.splitlines() if line.startswith("| way B | 4 |"))
    assert row(table, "way B").cells[0].text in line
    assert "| way C | b | 1 |" in text


def test_one_run_alone(tmp_path: Path) -> None:
    small_run(tmp_path / "runs" / "only")
    files = write(tmp_path)
    assert "| only | 1 |" in files["md"]
    assert "±" not in "".join(
        line for line in files["md"].splitlines() if line.startswith("| only")
    )
    assert ", less " not in Page(files["html"]).text


# --- charts -------------------------------------------------------------------------------------


def test_a_band_has_gaps_and_stays_inside() -> None:
    line = Line(
        name="a",
        x=range(6),
        y=[1.0, 2.0, 3.0, None, 2.0, 1.0],
        half=[0.5, 1e6, 0.5, None, None, 0.5],
        color=0,
    )
    [band] = [e for e in ElementTree.fromstring(line_chart([line])) if e.get("class") == "band"]
    shape = band.get("d", "")
    assert shape.count("M") == 2
    ys = [float(point.split()[1]) for point in re.findall(r"[\d.]+ [\d.]+", shape)]
    assert min(ys) == TOP
    assert max(ys) == HEIGHT - BOTTOM


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@example([0.5] * 18)
@example([0.1, 0.9, *[0.5] * 38])
def test_marks_do_not_overlap(values: list[float]) -> None:
    lines = [
        Line(name=str(i), x=[0, 1], y=[0.0, v], color=0, mark=str(i)) for i, v in enumerate(values)
    ]
    marks = [e for e in ElementTree.fromstring(line_chart(lines)) if e.get("class") == "end"]
    columns: dict[float, list[float]] = {}
    for mark in marks:
        columns.setdefault(float(mark.get("x", "")), []).append(float(mark.get("y", "")))
    assert sum(map(len, columns.values())) == len(values)
    assert (len(columns) == 1) == (len(values) <= 18)
    assert max(columns) + MARK_WIDTH <= WIDTH
    assert all(b - a >= MARK_WIDTH for a, b in pairwise(sorted(columns)))
    for ys in map(sorted, columns.values()):
        assert all(b - a >= MARK_HEIGHT - 0.15 for a, b in pairwise(ys))
        assert ys[0] >= TOP
        assert ys[-1] <= HEIGHT - BOTTOM + 4


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=20))
def test_any_points_lie_inside(values: list[tuple[float, float]]) -> None:
    points = [Point(name="<a>", x=x, y=y, color=0, mark="1") for x, y in values]
    svg = scatter_chart(points, x_name="a", y_name="b", bound=0.5)
    if not points:
        assert svg == ""
        return
    dots = [e for e in ElementTree.fromstring(svg) if e.tag == "circle"]
    assert len(dots) == len(points)
    assert all(0 <= float(e.get("cx", "")) <= 520 for e in dots)
    assert all(0 <= float(e.get("cy", "")) <= HEIGHT - BOTTOM for e in dots)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
@example([(0.5, 0.5)] * 12)
def test_marks_of_points_do_not_cover_each_other(values: list[tuple[float, float]]) -> None:
    points = [Point(name="a", x=x, y=y, color=0, mark="1") for x, y in values]
    svg = ElementTree.fromstring(scatter_chart(points, x_name="a", y_name="b"))
    places = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in svg if e.tag == "circle"]
    assert min(math.dist(a, b) for a, b in combinations(places, 2)) > 2 * MARK_RADIUS - 1


def test_places_on_the_x_axis_can_be_named() -> None:
    line = Line(name="a", x=[0, 2], y=[0.5, 0.6], color=0, markers=True)
    svg = ElementTree.fromstring(
        line_chart([line], x_texts={0: "1", 2: "four"}, x_name="k", from_zero=False)
    )
    texts = [e.text for e in svg if e.tag == "text"]
    assert "four" in texts
    assert "0" not in texts
    assert [e[0].text for e in svg if e.tag == "circle"] == ["a, k 1: 0.5", "a, k four: 0.6"]


def test_the_axis_has_the_zero_unless_told() -> None:
    line = Line(name="a", x=[0, 1], y=[0.9, 0.95], color=0)
    assert ">0<" in line_chart([line])
    assert re.search(r'text-anchor="end"[^>]*>0<', line_chart([line], from_zero=False)) is None
