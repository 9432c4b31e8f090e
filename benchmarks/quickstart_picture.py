"""Draws docs/quickstart.svg from the table in docs/quickstart.md, which benchmarks/quickstart.py
prints: `python -m benchmarks.quickstart_picture`."""

import re
from pathlib import Path

from markupsafe import Markup

from asyncds.compare.charts import BASE, CompareChart, picture
from asyncds.compare.report import style_sheet
from asyncds.telemetry.charts import bar_chart

DOCS = Path(__file__).resolve().parents[1] / "docs"
PASS_AT = ("1", "4", "16", "64")


def draw(page: str) -> str:
    """Pass@k of the base model and of both objectives, means over the seeds of the table."""
    found: dict[str, list[list[float]]] = {"base": [], "DS-GRPO": [], "GRPO": []}
    for name, cells in re.findall(r"^\| (base|DS-GRPO|GRPO)[^|]*\|((?: [\d.]+ \|){4})", page, re.M):
        found[name].append([float(cell) / 100 for cell in cells.strip(" |").split("|")])
    means = [[sum(at) / len(at) for at in zip(*rows, strict=True)] for rows in found.values()]
    colors = (BASE, 0, 1)
    bars = list(zip(found, colors, means, strict=True))
    seeds = len(found["base"])
    chart = CompareChart(
        title=f"Countdown, 128 held-out problems, means of {seeds} runs",
        note="",
        svg=Markup(bar_chart([f"Pass@{k}" for k in PASS_AT], bars, form="{:.0%}".format)),
    )
    return picture([[chart]], ["DS-GRPO, 200 steps", "GRPO, 200 steps"], style_sheet())


if __name__ == "__main__":
    (DOCS / "quickstart.svg").write_text(draw((DOCS / "quickstart.md").read_text()))
