"""Plain values to JSON, and whole files or none."""

import json
import math
import os
from pathlib import Path
from typing import Any


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON of plain values; numbers that are not finite, which JSON can't hold, become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def replace_file(path: Path, text: str) -> None:
    """Write `path` durably: a reader, or a crash, sees the old file or the new one.

    What is there and no ordinary file (/dev/null, a pipe) is written to and never replaced.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, "utf-8")
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
