"""A run that is under way on this machine."""

from pathlib import Path
from typing import Any

from asyncds.launch.children import ChildFailedError, Children
from asyncds.transport.keys import ClientKeys
from asyncds.transport.observer import Observer

LEAVE_SECONDS = 20.0
"""For the processes to leave once the run is over."""
LATE_SECONDS = 5.0
"""How old the coordinator's answer may be: that the run goes on says nothing about whether it did
when somebody left a moment ago."""


class ActiveRun:
    """The processes of a run: started by the constructor, tended and asked by `turn`, ended by
    `end`, which must be called."""

    def __init__(
        self, *, children: Children, address: str, run_dir: Path, keys: ClientKeys | None
    ) -> None:
        """address: of the coordinator's control plane. keys: to it, if its links are encrypted."""
        self._children = children
        self._summary = run_dir / "summary.json"
        self._observer = Observer(address, keys=keys)
        self._message = ""
        self._stopping = ""
        self.status: dict[str, Any] = {}
        """The newest one that the coordinator sent, with a message of this machine if there is
        one."""
        self.problem = ""
        """Why the run can't go on, or ""."""
        children.start()

    @property
    def over(self) -> bool:
        """The coordinator has written its summary and ended, or the run can't go on."""
        ended = self._children.coordinator.code is not None and self._summary.exists()
        return ended or bool(self.problem)

    def turn(self, timeout: float) -> None:
        """Ask for the status, `timeout` seconds at most; end what hangs and start again what died,
        or left although the run goes on."""
        answer = self._observer.status(timeout)
        if self._summary.exists():
            self._message = "the run is over; its processes are leaving"
        else:
            going_on = answer is not None and not answer["over"]
            left = self._children.left() if going_on else {}
            try:
                news = self._children.end_hung(answer)
                news += self._children.tend(
                    too_early=[name for name, ago in left.items() if ago >= LATE_SECONDS]
                )
                self._message = "; ".join(news) or self._message
            except ChildFailedError as error:
                self._observer.stop(str(error).splitlines()[0])
                self.problem = str(error)
                return
            if self._stopping:
                self._observer.stop(self._stopping)
                self._message = "ending the run: checkpoint, drain, summary (Ctrl-C again to abort)"
        status = answer or self.status
        self.status = status | ({"message": self._message} if self._message else {})

    def stop(self, reason: str) -> None:
        """Have the run end in good order; it is over some turns later."""
        self._stopping = reason

    def end(self) -> None:
        """Wait for the processes to leave, and make them."""
        self._observer.close()
        self._children.end(LEAVE_SECONDS)
