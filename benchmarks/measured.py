"""Measurements of a benchmark: a file of rows beside docs/benchmarks.md, and tables from them."""

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/benchmarks"
PAGE = ROOT / "docs/benchmarks.md"
PACKAGES = ("torch", "vllm", "deepspeed", "transformers", "trl")
LINE = "  \n"
_BLOCK = re.compile(r"(<!-- benchmark: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: what was done (case), by whom (side), and the values of every repeat."""

    case: str
    side: str
    values: list[float]
    unit: str
    better: str = "higher"

    @property
    def mean(self) -> float:
        """The mean of the repeats."""
        return statistics.fmean(self.values)


def save(name: str, rows: Sequence[Row]) -> None:
    """Write a benchmark's rows, with where and how they were measured; print them as a table.

    Rows of other cases that are there stay.
    """
    how = {
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": {name: metadata.version(name) for name in _distributions()},
    }
    cases = {row.case for row in rows}
    path = DATA / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [record for record in before if record["case"] not in cases]
    DATA.mkdir(exist_ok=True)
    records = [*kept, *(asdict(row) | how for row in rows)]
    path.write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: a line for each case and side, with its ratio to the case's last side.

    A ratio above 1 means faster or less, whichever is better. Its range is that over the repeats,
    taken in pairs.
    """
    names = [field.name for field in fields(Row)]
    rows = [Row(**{name: record[name] for name in names}) for record in records]
    lines = ["| | | mean | ratio | of repeats |", "|---|---|--:|--:|---|"]
    last = {row.case: row for row in rows}
    for row in rows:
        other = last[row.case]
        ratio, span = "", ""
        if row is not other:
            pairs = [_ratio(a, b, row) for a, b in zip(row.values, other.values, strict=True)]
            ratio = f"{_ratio(row.mean, other.mean, row):.2f}"
            span = f"{min(pairs):.2f} to {max(pairs):.2f}" if len(pairs) > 1 else "one"
        value = f"{row.mean:,.3g}" if row.mean < 100 else f"{row.mean:,.0f}"
        lines.append(f"| {row.case} | {row.side} | {value} {row.unit} | {ratio} | {span} |")
    return "\n".join(lines)


def write_page() -> None:
    """Write the tables of docs/benchmarks.md anew from the files of rows."""

    def block(match: re.Match[str]) -> str:
        records = json.loads((DATA / f"{match[2]}.json").read_text())
        sources = dict.fromkeys(f"`{r['command']}`, {r['date']}, {r['machine']}." for r in records)
        return f"{match[1]}{table(records)}\n\n{LINE.join(sources)}\n{match[3]}"

    PAGE.write_text(_BLOCK.sub(block, PAGE.read_text()))


def _ratio(value: float, other: float, row: Row) -> float:
    return value / other if row.better == "higher" else other / value


def _distributions() -> list[str]:
    found = metadata.packages_distributions()
    return [name for package in PACKAGES for name in found.get(package, [])]


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    write_page()
