"""metrics.jsonl: one line per training batch, readable while it grows."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from asyncds.telemetry.files import replace_file, to_json


class RunLog:
    """Appends lines to a file that begins with `lines`.

    Those are of an earlier life of the run, as the journal has them. What else the file held was
    cut off by a crash, or will be written again.
    """

    def __init__(self, path: Path, *, lines: Iterable[dict[str, Any]] = ()) -> None:
        replace_file(path, "".join(to_json(line) + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append plain values and flush. Numbers that are not finite become null."""
        self._file.write(to_json(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_run_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; [] if there is no file.

    A last line without its end is one that is being written, or that a crash cut off, and is left
    out.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in whole]
