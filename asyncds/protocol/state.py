"""Where a run stands."""

from enum import StrEnum


class State(StrEnum):
    """Where the run stands. FINISHED, INTERRUPTED and FAILED are final."""

    STARTING = "starting"
    RUNNING = "running"
    FINISHING = "finishing"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (State.FINISHED, State.INTERRUPTED, State.FAILED)
