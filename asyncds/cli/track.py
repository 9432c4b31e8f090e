"""`asyncds track`: send a run to its trackers, as far as that has not been done."""

import sys
from contextlib import closing
from pathlib import Path

from asyncds.config.load import load_config
from asyncds.launch.errors import UserError
from asyncds.telemetry.trackers.follower import FollowedError
from asyncds.telemetry.trackers.make import make_follower, missing_package


def track_command(run_dir: Path, overrides: list[str]) -> int:
    """Send what is missing, and say what was sent. Returns the exit code.

    overrides: such as `telemetry.trackers=[tensorboard]`. Raises ConfigError and UserError.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml")
    if not (run_dir / "journal.db").is_file():
        raise UserError(f"{run_dir} has no journal.db: there is nothing to send")
    config = load_config(run_dir / "config.yaml", overrides)
    trackers = config.telemetry.trackers
    if not trackers:
        raise UserError("the run has no trackers: add telemetry.trackers=[tensorboard]")
    if missing := [problem for tracker in trackers if (problem := missing_package(tracker))]:
        raise UserError(*missing)
    failed = False
    for tracker in trackers:
        try:
            follower = make_follower(config, tracker, run_dir=run_dir)
        except FollowedError as error:
            raise UserError(str(error)) from error
        with closing(follower):
            before = follower.place.step
            follower.turn(last=True)
            if follower.problem:
                print(f"{tracker.kind}: {follower.problem}", file=sys.stderr)
                failed = True
            else:
                print(f"{tracker.kind}: {follower.place.step - before} steps sent")
    return 1 if failed else 0
