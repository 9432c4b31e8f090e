"""The timeline of a run: what its processes did when, in the Trace Event format.

Perfetto (ui.perfetto.dev) and Chrome's chrome://tracing show it. Every process writes events to a
file of its own, whose closing bracket the format lets one leave out; when the run is over the files
become one.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncds.telemetry.traces.spans import Span, Value

FOLDER, FILE = "timeline", "timeline.json"
"""In a run's directory: the processes' files, and what becomes of them."""
WAITING_EVENTS = 1000
"""Events that are kept until they are written; a process that is killed loses them."""
Event = dict[str, Any]


class TimelineFile:
    """The events of one process; from any thread.

    Spans of leases and weight syncs overlap, so each has a row of its own (an *async* event);
    `here` and `count` are for what a process does one after the other.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        """folder: made if it is not there. name: of the process. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{name}.json").open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._closed = False
        self._add({"ph": "M", "name": "process_name", "args": {"name": name}})

    def report(self, span: Span) -> None:
        """Take a span of a lease or a weight sync."""
        about = {"cat": "trace", "id": f"{span.trace:x}", "name": span.name}
        failed = {"error": span.error} if span.error else {}
        self._add(
            about | {"ph": "b", "ts": span.start / 1e3, "args": {**span.attributes, **failed}},
            about | {"ph": "e", "ts": span.end / 1e3},
        )

    def here(self, row: str, name: str, start: int, end: int, facts: Mapping[str, Value]) -> None:
        """Take what this process did from start to end, in nanoseconds since 1970.

        row: of spans that do not overlap.
        """
        times = {"ts": start / 1e3, "dur": (end - start) / 1e3}
        self._add({"ph": "X", "name": name, "tid": row, **times, "args": dict(facts)})

    def count(self, name: str, at: int, values: Mapping[str, float]) -> None:
        """Take numbers that are drawn as a curve from here on."""
        self._add({"ph": "C", "name": name, "ts": at / 1e3, "args": dict(values)})

    def close(self) -> None:
        """Write what is there. What comes later is lost."""
        with self._lock:
            self._write()
            self._file.close()
            self._closed = True

    def _add(self, *events: Event) -> None:
        with self._lock:
            self._events += events
            if len(self._events) >= WAITING_EVENTS and not self._closed:
                self._write()

    def _write(self) -> None:
        if not self._closed:
            self._file.writelines(f"{json.dumps(event)},\n" for event in self._events)
            self._file.flush()
        self._events.clear()


def merge_timeline(run_dir: Path) -> Path | None:
    """Make one file of the processes' and return it; None if there are none. Raises OSError.

    Times count from the first event. A line that a killed process left unfinished is left out.
    """
    files = sorted((run_dir / FOLDER).glob("*.json"))
    if not files:
        return None
    first = min(
        (event["ts"] for file in files for event in _events(file) if "ts" in event), default=0.0
    )
    out = run_dir / FILE
    with out.open("w", encoding="utf-8") as merged:
        merged.write('{"displayTimeUnit": "ms", "traceEvents": [')
        between = "\n"
        for pid, file in enumerate(files, start=1):
            for event in _numbered(_events(file), pid, first):
                merged.write(between + json.dumps(event))
                between = ",\n"
        merged.write("\n]}\n")
    return out


def _events(file: Path) -> Iterator[Event]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield json.loads(line.rstrip().removesuffix(","))
            except ValueError:
                continue


def _numbered(events: Iterator[Event], pid: int, first: float) -> Iterator[Event]:
    """The same with numbers for the process and its rows, as the format wants them."""
    rows: dict[str, int] = {}
    for event in events:
        row = event.pop("tid", None)
        if row is not None and row not in rows:
            rows[row] = len(rows) + 1
            yield {
                "ph": "M",
                "name": "thread_name",
                "pid": pid,
                "tid": rows[row],
                "args": {"name": row},
            }
        if "ts" in event:
            event["ts"] = round(event["ts"] - first, 3)
        yield event | {"pid": pid, "tid": rows.get(row, 0) if row is not None else 0}
