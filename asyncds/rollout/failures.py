"""Groups that fail for good: what to tell, when to try again, when the run can't go on. Pure.

A group that fails is not a disaster: a prompt may be too long, and another comes. When nothing but
failures comes, prompts would be handed out thousands of times a second for nothing. So after a
failure the next waits, and when IN_A_ROW groups, or all rows of the set, failed with no success in
between, the run is over. Where an attempt might have succeeded later it gets PATIENCE_SECONDS.
"""

from collections import deque
from dataclasses import dataclass, field

IN_A_ROW = 128
"""So many groups in a row fail by chance once in a million times if nine of ten can't be used."""
FREE = 8
"""Failed attempts in a row that nothing waits for."""
PAUSE_SECONDS = 0.1
"""Between attempts after failures that another attempt would repeat: these soon come to an end."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""The same after others, doubled each time."""
PATIENCE_SECONDS = 60.0
"""How long a row of failures lasts before it ends a run, if one of them might have passed."""
WORTH_TELLING = 0.1
"""The share of failures among the last groups from which on people are told."""


@dataclass(kw_only=True)
class Failures:
    """The failures among the groups of one purpose. `rows`: how many there are to draw from."""

    rows: int = 0
    _last: deque[bool] = field(default_factory=lambda: deque(maxlen=IN_A_ROW))
    _failed_rows: set[int] = field(default_factory=set)
    _groups: int = 0
    _attempts: int = 0
    _since: float | None = None
    _passing: bool = False
    _pause: float = 0.0
    _until: float = 0.0
    _reason: str = ""

    def delivered(self) -> None:
        """A group came."""
        self._last.append(False)
        self._failed_rows.clear()
        self._groups = self._attempts = 0
        self._since, self._passing = None, False
        self._pause = self._until = 0.0

    def attempt_failed(self, *, reason: str, permanent: bool, now: float) -> None:
        """An attempt at a group ended without one. permanent: another would end so too."""
        self._attempts += 1
        self._reason = reason
        self._since = now if self._since is None else self._since
        self._passing |= not permanent
        if self._attempts <= FREE or now < self._until:
            return  # what fails at the same time is waited for once
        if permanent:
            self._pause = PAUSE_SECONDS
        else:
            self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), LONGEST_PAUSE_SECONDS)
        self._until = now + self._pause

    def given_up(self, row: int) -> None:
        """A group of this row will not come."""
        self._last.append(True)
        self._groups += 1
        if len(self._failed_rows) < IN_A_ROW:
            self._failed_rows.add(row)

    def may_begin(self, now: float) -> bool:
        """Whether another attempt may begin."""
        return now >= self._until

    def hopeless(self, now: float) -> str:
        """Why no group will come, in a sentence; "" if one may."""
        everything = 0 < self.rows <= len(self._failed_rows)
        if not (everything or self._groups >= IN_A_ROW) or self._since is None:
            return ""
        if self._passing and now - self._since < PATIENCE_SECONDS:
            return ""
        what = f"all {self.rows} rows" if everything else f"{self._groups} groups in a row"
        return f"{what} failed: {self._reason}"

    def told(self) -> str:
        """A sentence for people while it goes on; "" if failures are few."""
        failed = sum(self._last)
        if not failed or (self._groups < FREE and failed < WORTH_TELLING * len(self._last)):
            return ""
        return f"{failed} of the last {len(self._last)} groups failed: {self._reason}"
