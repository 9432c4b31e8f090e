"""Dumps of what a process is doing, written down when a run does not move."""

import faulthandler
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def dump_state(folder: Path, *, name: str, reason: str, state: Mapping[str, Any]) -> Path:
    """Write `<folder>/<name>-<time>.txt`: the reason, the state, all threads.

    The state is written as JSON; of every thread of this process, where it is. Returns its path.
    Works while other threads hang, if they let go of the interpreter. Raises OSError where the
    folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    with path.open("w") as file:
        file.write(f"{reason}\n\n{json.dumps(state, indent=2, default=str)}\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    return path
