"""The table at the end of `asyncds eval`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def results_table(results: Mapping[str, Any], console: Console) -> Table:
    """A row for each task, each of its sets, and all together, at each temperature.

    Where the console has no room for every Pass@k those between the ends are left out, the larger
    first, then the last.
    """
    rows = list(_rows(results))
    ks = sorted({k for _, one in rows for k in one["pass@k"]}, key=int)
    shown = ks
    view = _table(rows, shown)
    unbounded = console.options.update(width=10_000)
    while len(shown) > 1 and Measurement.get(console, unbounded, view).maximum > console.width:
        shown = [*shown[:-2], shown[-1]] if len(shown) > 2 else shown[:1]
        view = _table(rows, shown)
    view.caption = "Pass@k in percent; below it, its 95 % interval over problems"
    if len(shown) < len(ks):
        view.caption += f"; {len(ks) - len(shown)} more Pass@k are in results.json"
    view.caption_justify = "left"
    return view


def _table(rows: Sequence[tuple[Text, Mapping[str, Any]]], ks: Sequence[str]) -> Table:
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    view.add_column("task", min_width=8, overflow="fold")
    for heading in ("T", "problems", "samples", *(f"Pass@{k}" for k in ks), "distinct"):
        view.add_column(heading, justify="right", no_wrap=True)
    for name, one in rows:
        distinct = one.get("distinct_correct")
        view.add_row(
            name,
            f"{one['temperature']:g}",
            f"{one['n_problems']:,}",
            f"{one['n_samples']}",
            *(_share(one, k) for k in ks),
            "" if distinct is None else f"{distinct:.2f}",
        )
    return view


def _rows(results: Mapping[str, Any]) -> Iterator[tuple[Text, Mapping[str, Any]]]:
    for task, evaluations in results["tasks"].items():
        for one in evaluations:
            yield Text(task), one
            sets = one.get("sets") or {}
            for name, of_set in sets.items() if len(sets) > 1 else ():
                at = {key: one[key] for key in ("temperature", "n_samples")}
                yield Text(f"  {name}", "dim"), at | of_set
    for one in results["pooled"]:
        yield Text("all", "bold"), one


def _share(result: Mapping[str, Any], k: str) -> Text:
    if k not in result["pass@k"]:
        return Text("–")
    low, high = (100 * end for end in result["pass@k_interval"][k])
    return Text.assemble(f"{100 * result['pass@k'][k]:.1f}", (f"\n{low:.1f}–{high:.1f}", "dim"))
