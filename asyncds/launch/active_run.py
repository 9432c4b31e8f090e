"""A run that is under way on this machine."""

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from asyncds.launch.children import ChildFailedError, Children
from asyncds.launch.scaling import Scaling
from asyncds.protocol.records import RunStatus
from asyncds.transport.keys import ClientKeys
from asyncds.transport.observer import Observer

LEAVE_SECONDS = 20.0
"""Seconds for the processes to leave once the run is over."""
ABORTED = "aborted"
"""The problem of a run that was not left the time to end."""
LATE_SECONDS = 5.0
"""How old the coordinator's answer may be: that the run goes on says nothing about whether it did
when somebody left a moment ago."""


class ActiveRun:
    """The processes of a run.

    Started by the constructor, tended and asked by `turn`, ended by `end`, which must be called.
    """

    def __init__(
        self,
        *,
        children: Children,
        scaling: Scaling | None = None,
        address: str,
        run_dir: Path,
        keys: ClientKeys | None,
    ) -> None:
        """address: of the coordinator's control plane. keys: to it, if its links are encrypted.

        scaling: for the number of generators to change while it goes on.
        """
        self._scaling = scaling
        self._children = children
        self._summary = run_dir / "summary.json"
        self._observer = Observer(address, keys=keys)
        self._message = ""
        self._stopping = ""
        self.status = RunStatus()
        """The newest one that the coordinator sent, with a message of this machine if there is
        one."""
        self.problem = ""
        """Why the run can't go on, or ""."""
        self._aborted = False
        children.start()

    @property
    def over(self) -> bool:
        """The coordinator has ended and will not be started again, or the run was aborted."""
        ended = self._children.coordinator.code is not None
        return self._aborted or (ended and (self._summary.exists() or bool(self.problem)))

    def turn(self, timeout: float) -> None:
        """Ask for the status, `timeout` seconds at most, and look after the processes.

        What hangs is ended; what died, or left although the run goes on, is started again.
        """
        answer = self._observer.status(timeout)
        if self._summary.exists():
            self._message = "the run is over; its processes are leaving"
        else:
            news = self._children.end_hung(answer)
            if not self.problem:
                news += self._keep_alive(answer)
                if self._scaling is not None and (scaled := self._scaling.turn()):
                    news.append(scaled)
            self._message = "; ".join(news) or self._message
            if self._stopping:
                self._observer.stop(self._stopping, failed=bool(self.problem))
                self._message = (
                    f"ending the run: checkpoint, drain, summary ({self._stopping}; Ctrl-C aborts "
                    "that)"
                )
        status = answer or self.status
        said = [part for part in (self._message, self._loading(answer)) if part]
        message = "; ".join(said) or status.message
        self.status = replace(status, message=message)

    def _loading(self, answer: RunStatus | None) -> str:
        """Whose model or engine is being loaded, which takes half a minute and more."""
        return ", ".join(self._children.loading(answer)) if answer else ""

    def _keep_alive(self, answer: RunStatus | None) -> list[str]:
        """Start again what died or left too early; from the first that can't be, the run ends."""
        going_on = answer is not None and not answer.over
        left = self._children.left() if going_on else {}
        try:
            return self._children.tend(
                too_early=[name for name, ago in left.items() if ago >= LATE_SECONDS]
            )
        except ChildFailedError as error:
            self.problem = str(error)
            self.stop(self.problem.splitlines()[0])
            return []

    def stop(self, reason: str) -> None:
        """Have the run end in good order; it is over some turns later."""
        self._stopping = self._stopping or reason

    def interrupt(self) -> None:
        """Somebody pressed Ctrl-C: the run ends in good order, or at once if it is ending."""
        if self._stopping or self._summary.exists():
            self._aborted = True
            self.problem = self.problem or ("" if self._summary.exists() else ABORTED)
        else:
            self.stop("Ctrl-C")

    def end(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Wait for the processes to leave, and make them. hurry: whether not to wait."""
        self._observer.close()
        self._children.end(LEAVE_SECONDS, hurry=lambda: self._aborted or hurry())
