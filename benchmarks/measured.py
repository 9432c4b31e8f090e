"""Measurements of a benchmark: a file of rows beside docs/benchmarks.md, and tables from them."""

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/benchmarks"
PAGE = ROOT / "docs/benchmarks.md"
PACKAGES = ("torch", "vllm", "deepspeed", "transformers", "trl")
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
    """Write a benchmark's rows, and where and how they were measured; print them as a table."""
    record = {
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": {name: metadata.version(name) for name in _distributions()},
        "rows": [asdict(row) for row in rows],
    }
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def table(record: Mapping[str, object]) -> str:
    """A Markdown table: a line for each case and side, with its ratio to the case's last side.

    A ratio above 1 means faster or less, whichever is better. Its range is that over the repeats,
    taken in pairs.
    """
    rows = [Row(**row) for row in record["rows"]]  # type: ignore[attr-defined]
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
        record = json.loads((DATA / f"{match[2]}.json").read_text())
        source = f"`{record['command']}`, {record['date']}, {record['machine']}."
        return f"{match[1]}{table(record)}\n\n{source}\n{match[3]}"

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
