"""`asyncds attach` and `asyncds stop`: a run that was started elsewhere, followed or ended."""

import time
from contextlib import closing
from pathlib import Path

from rich.console import Console

from asyncds.cli.join import open_run
from asyncds.cli.run import POLL_SECONDS, conclude, display
from asyncds.launch.errors import UserError
from asyncds.launch.interrupts import interrupts

SILENT_SECONDS = 60.0
"""Seconds without a coordinator after which there is nothing to follow."""


def attach_command(run_dir: Path, *, stop: bool = False) -> int:
    """Show a run until it is over, or Ctrl-C. Returns the exit code of the run.

    stop: ask it to end in good order meanwhile.
    """
    console = Console()
    summary = run_dir / "summary.json"
    _, _, observer = open_run(run_dir)
    heard = time.monotonic()
    with closing(observer), interrupts() as signals, display(console) as show:
        while not summary.exists():
            if signals:
                console.print(f"the run goes on: asyncds attach {run_dir}")
                return 0
            if stop:
                observer.stop("asyncds stop")
            status = observer.status(POLL_SECONDS)
            if status is not None:
                heard = time.monotonic()
                show(status)
            elif time.monotonic() - heard > SILENT_SECONDS:
                raise UserError(
                    f"no coordinator answers: the run in {run_dir} has ended without a summary, or "
                    f"its machine can't be reached; see {run_dir / 'logs'}"
                )
            time.sleep(POLL_SECONDS)
    return conclude(run_dir, "", console)
