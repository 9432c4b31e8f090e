"""Sends what a run's journal records to a tracker, now or later.

The journal is the queue: nothing is kept in memory, nothing is dropped. A follower remembers on
disk how far it came, so what a tracker did not take (no network, a server that is down) is sent
when it does, in this process or in another one.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asyncds.protocol.records import EvaluationRecord, StepRecord
from asyncds.rollout.journal import Journal
from asyncds.telemetry.files import replace_file
from asyncds.telemetry.summary import read_summary
from asyncds.telemetry.trackers.tracker import Tracker

log = logging.getLogger(__name__)

AT_ONCE = 200
"""Steps between two notes of how far it came."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
"""Seconds after a failure; doubled after each."""


@dataclass(kw_only=True)
class Place:
    """How far a follower came.

    run: what identifies the run at the tracker, "" before it does. step: steps sent. evaluations:
    ids of those sent. rewinds: of the journal, that are accounted for. finished: the summary is
    sent too.
    """

    run: str = ""
    step: int = 0
    evaluations: list[int] = field(default_factory=list)
    rewinds: int = 0
    finished: bool = False


class FollowedError(Exception):
    """Another process sends this run to the same tracker."""


class Follower:
    """One run, one tracker. At most one process follows: the lock ends with it.

    make: a tracker that is not connected. now: seconds.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        name: str,
        kind: str,
        config: Mapping[str, Any],
        make: Callable[[], Tracker],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        directory = run_dir / "trackers"
        directory.mkdir(exist_ok=True)
        self._run_dir, self._name, self._kind = run_dir, name, kind
        self._config, self._make, self._now = config, make, now
        self._lock = _lock(directory / f"{kind}.lock", kind)
        self._file = directory / f"{kind}.json"
        self.place = read_place(run_dir, kind)
        self._tracker: Tracker | None = None
        self._wait, self._retry_at = FIRST_WAIT, -float("inf")
        self.problem = ""
        """Why the tracker does not take anything now, or ""."""

    def close(self) -> None:
        """Others may follow."""
        os.close(self._lock)

    def turn(self, *, last: bool = False) -> None:
        """Send what is new.

        Never raises for the tracker's sake: the log names a failure once, and it is tried again,
        less and less often; at the `last` turn, at once.
        """
        if not last and self._now() < self._retry_at:
            return
        try:
            self._send(last=last)
        except Exception as error:  # whatever a tracker's library raises
            self._tracker = None
            self._retry_at = self._now() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            if not self.problem:
                log.warning(
                    "%s takes no metrics (%s: %s); the run goes on, and they are sent when it does",
                    *(self._kind, type(error).__name__, " ".join(str(error).split())[:300]),
                )
            self.problem = str(error) or type(error).__name__
        else:
            if self.problem:
                log.warning("%s takes metrics again", self._kind)
            self.problem, self._wait = "", FIRST_WAIT

    def _send(self, *, last: bool) -> None:
        place = self.place
        file = self._run_dir / "journal.db"
        with closing(Journal(file, read_only=True)) as journal, journal.snapshot():
            rewinds = journal.rewinds()
            holds = min([place.step, *rewinds[place.rewinds :]])
            steps, evaluations = journal.steps(start=holds), journal.evaluations()
        summary = read_summary(self._run_dir / "summary.json") if last else None
        sent = [e.id for e in evaluations if e.id in place.evaluations]
        new = [e for e in evaluations if e.id not in sent]
        undone = holds < place.step
        ends = summary is not None and not place.finished
        if not (steps or new or undone or ends or not place.run):
            return
        if self._tracker is None:
            self._tracker = self._begin(holds)
        elif undone:
            self._tracker.rewind(holds)
        place.step, place.rewinds, place.evaluations = holds, len(rewinds), sent
        if steps or new:
            place.finished = False
        self._save()
        self._pass_on(self._tracker, steps, new)
        if summary is not None and not place.finished:
            self._tracker.finish(summary)
            place.finished, self._tracker = True, None
            self._save()

    def _begin(self, step: int) -> Tracker:
        tracker = self._make()
        self.place.run = tracker.begin(
            name=self._name, run=self.place.run, step=step, config=self._config
        )
        return tracker

    def _pass_on(
        self, tracker: Tracker, steps: list[StepRecord], evaluations: list[EvaluationRecord]
    ) -> None:
        for start in range(0, len(steps), AT_ONCE):
            some = steps[start : start + AT_ONCE]
            for record in some:
                tracker.step(record.line())
            tracker.flush()
            self.place.step = some[-1].step + 1
            self._save()
        for evaluation in evaluations:
            tracker.evaluation(evaluation.result())
            tracker.flush()
            self.place.evaluations.append(evaluation.id)
            self._save()

    def _save(self) -> None:
        replace_file(self._file, json.dumps(asdict(self.place)))


def unsent(run_dir: Path, kind: str) -> int:
    """Steps, and the end if there is one, that a tracker did not take yet."""
    place = read_place(run_dir, kind)
    with closing(Journal(run_dir / "journal.db", read_only=True)) as journal:
        steps = len(journal.steps(start=place.step))
    return steps + ((run_dir / "summary.json").exists() and not place.finished)


def read_place(run_dir: Path, kind: str) -> Place:
    """How far the sending to a tracker came."""
    file = run_dir / "trackers" / f"{kind}.json"
    return Place(**json.loads(file.read_text())) if file.exists() else Place()


def _lock(path: Path, kind: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FollowedError(
            f"another process sends this run to {kind}: wait for its end, or end it"
        ) from error
    return descriptor
