"""A role's process that serves one run after another, so that it starts its engine only once.

`python -m services.warm ROLE REPORT`: every line on stdin is an assignment, the arguments that the
role's own command would get, as a JSON array. When the run is over its exit code goes out as a line
on the file descriptor REPORT. The process ends at the end of stdin, so also when whoever
started it dies, and after a run that failed: what a failure leaves behind is not reused.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from asyncds.config.load import ConfigError, load_config
from asyncds.config.schema import RunConfig
from asyncds.user_code import find_user_code
from services.process import BAD_INPUT, start_logging
from services.role import role_module


class Assignments:
    """The runs that this process is given, one at a time."""

    def __init__(self, *, lines: TextIO, report: TextIO) -> None:
        self._lines = lines
        self._report = report

    def next(self) -> RunConfig | None:
        """Wait for the next run; None if there are no more."""
        for line in self._lines:
            config_file, *overrides = json.loads(line)
            try:
                return load_config(Path(config_file), overrides)
            except ConfigError as error:
                print(error, file=sys.stderr)
                self.finished(BAD_INPUT)
        return None

    def finished(self, code: int) -> None:
        """The run that was given last is over, with this exit code."""
        print(code, file=self._report, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Serve runs until there are no more. Returns the exit code of the last one."""
    find_user_code()
    role, report, *options = arguments
    start_logging()
    module = role_module(role)
    with os.fdopen(int(report), "w") as out:
        assignments = Assignments(lines=sys.stdin, report=out)
        code: int = module.serve_runs(assignments, **dict(o.split("=", 1) for o in options))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
