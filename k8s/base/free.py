"""Scales workloads to zero once the run of the coordinator in the same pod is over: their GPUs are
free then, and what is left is as it was made, so that `helm upgrade` brings the pods back.

free.py FILE      with a line for each: APIVERSION/PLURAL/NAME

The file is read again and again: an upgrade may change it.

One time per end: whoever is scaled up later stays. A workload that does not exist is none of its
business. What fails is said and tried again.
"""

import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
METRICS = f"http://127.0.0.1:{os.environ.get('METRICS_PORT', '9400')}/metrics"
LEAVE_SECONDS = 30.0
"""For the pods to leave in good order before."""
POLL_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0


def over(metrics: str) -> bool | None:
    """Whether the run is over; None while the coordinator does not answer."""
    try:
        with urllib.request.urlopen(metrics, timeout=TIMEOUT_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    return any(x.startswith("asyncds_coordinator_over{") and x.endswith(" 1.0") for x in lines)


def scale_to_zero(workload: str, *, api: str, account: Path) -> None:
    """Raises OSError, of which urllib's errors are some."""
    version, plural, name = workload.rsplit("/", 2)
    space = (account / "namespace").read_text()
    request = urllib.request.Request(
        f"{api}/apis/{version}/namespaces/{space}/{plural}/{name}/scale",
        data=json.dumps({"spec": {"replicas": 0}}).encode(),
        method="PATCH",
        headers={
            "Authorization": f"Bearer {(account / 'token').read_text()}",
            "Content-Type": "application/merge-patch+json",
        },
    )
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context):
            print(f"The run is over: {name} has no pods from now on.", flush=True)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


class Due:
    """Which workloads are to be scaled to zero, and when."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._since: float | None = None

    def now(self, workloads: Sequence[str], over: bool | None, now: float) -> list[str]:
        """Those of `workloads` to be scaled to zero. over: as `over` says. now: seconds."""
        if over is False:
            self._since = None
            self._done.clear()
        elif over and self._since is None:
            self._since = now
        if self._since is None or now - self._since < LEAVE_SECONDS:
            return []
        return [w for w in workloads if w not in self._done]

    def done(self, workload: str) -> None:
        """It has no pods, until the run goes on and is over again."""
        self._done.add(workload)


def main(file: Path) -> None:
    """Goes on until it is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # nobody else does it for process 1
    due = Due()
    while True:
        for workload in due.now(file.read_text().split(), over(METRICS), time.monotonic()):
            try:
                scale_to_zero(workload, api=API, account=ACCOUNT)
                due.done(workload)
            except OSError as error:
                print(f"{workload} was not scaled to zero: {error}", flush=True)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
