"""The process that sends a run's metrics to one tracker, beside the coordinator.

Standard input brings one line of JSON, then its end says that the run is over, or the coordinator
gone. A tracker's library may therefore hang, leak or crash: the run does not notice.
"""

import json
import os
import select
import sys
from contextlib import closing

from asyncds.config.load import parse_config
from asyncds.telemetry.trackers.follower import FollowedError
from asyncds.telemetry.trackers.make import make_follower
from asyncds.user_code import find_user_code
from services.process import FAILURE, run_directory, start_logging

POLL_SECONDS = 2.0


def main() -> int:
    """Follow until standard input ends. Returns the exit code."""
    find_user_code()
    start_logging()
    said = json.loads(sys.stdin.readline())
    config = parse_config(said["config"])
    tracker = config.telemetry.trackers[said["tracker"]]
    try:
        follower = make_follower(config, tracker, run_dir=run_directory(config))
    except FollowedError as error:
        print(error, file=sys.stderr)
        return FAILURE
    with closing(follower):
        while not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            follower.turn()
        follower.turn(last=True)
        sys.stderr.flush()
        # A library's own threads and exit handlers may still wait for a network.
        os._exit(FAILURE if follower.problem else 0)


if __name__ == "__main__":
    sys.exit(main())
