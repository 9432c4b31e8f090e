"""Liveness of a run's processes, judged by when they were last heard of."""

from collections.abc import Mapping

from asyncds.protocol.records import RunStatus

COORDINATOR = "coordinator"
LEARNER = "learner"


class LivenessMonitor:
    """Keeps when each process was last heard of, from the statuses that the coordinator sends.

    A process that was heard of since it started may be silent for `silent_seconds`; one that was
    not is starting, and may take `start_seconds`. While the coordinator does not answer, nobody
    but itself is judged: it is the one who would have heard them.
    """

    def __init__(self, *, silent_seconds: float, start_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._start_seconds = start_seconds
        self._heard: dict[str, float] = {}
        self._answering_since: float | None = None
        self._listening_since = -float("inf")

    def listens_again(self, now: float) -> None:
        """Begin to count again: whoever asks was stopped (Ctrl-Z) itself and could hear nobody."""
        self._listening_since = now

    def hung(
        self, started: Mapping[str, float], status: RunStatus | None, now: float
    ) -> dict[str, float]:
        """The processes that hang, each with the seconds of its silence.

        started: when each one was, of those that run. status: the coordinator's answer of
        this moment, None if there is none.
        """
        self._heard = {n: t for n, t in self._heard.items() if t > started.get(n, now)}
        if COORDINATOR not in self._heard:
            self._answering_since = None
        if status is not None:
            self._listen(started, status, now)
        found = {}
        for name, began in started.items():
            if status is None and name != COORDINATOR:
                continue
            if name != COORDINATOR and self._answering_since is not None:
                began = max(began, self._answering_since)
            limit = self._silent_seconds if name in self._heard else self._start_seconds
            silent = now - max(began, self._heard.get(name, began), self._listening_since)
            if silent > limit:
                found[name] = silent
        return found

    def _listen(self, started: Mapping[str, float], status: RunStatus, now: float) -> None:
        if self._answering_since is None:
            self._answering_since = now
        self._heard[COORDINATOR] = now
        seen: dict[str, float | None] = {m.name: m.last_seen for m in status.fleet}
        seen[LEARNER] = status.learner.last_seen
        for name, ago in seen.items():
            if name in started and ago is not None and now - ago > started[name]:
                self._heard[name] = now - ago
