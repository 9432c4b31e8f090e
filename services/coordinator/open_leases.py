"""The leases that are not settled, and who works on which."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from asyncds.protocol.wire import Lease
from asyncds.rollout.lifecycle import Purpose
from services.coordinator.attempts import AttemptBudget


@dataclass(kw_only=True)
class Open:
    """A lease that is not settled.

    attempt: the number of its present or next attempt. budget: the attempts that count against it.
    temperature: of an evaluation. holder: the generator that works on it, if any, on `wire`; since
    `granted`. sent: when the grant was last sent.
    """

    id: int
    purpose: Purpose
    row: int
    attempt: int = 1
    budget: AttemptBudget = field(default_factory=AttemptBudget)
    temperature: float | None = None
    holder: str | None = None
    granted: float = 0.0
    sent: float = 0.0
    wire: Lease | None = None


class OpenLeases:
    """By id, in the order they were added, and by holder: with thousands of generators nobody looks
    through all of them for those of one. Holders change by `hold` and `release` only."""

    def __init__(self) -> None:
        self._entries: dict[int, Open] = {}
        self._held: dict[str, dict[int, Open]] = {}
        self._loads: dict[str, int] = {}

    def __iter__(self) -> Iterator[Open]:
        return iter(list(self._entries.values()))

    def __contains__(self, id: int) -> bool:
        return id in self._entries

    def __getitem__(self, id: int) -> Open:
        return self._entries[id]

    def get(self, id: int) -> Open | None:
        """The lease, if it is not settled."""
        return self._entries.get(id)

    def add(self, entry: Open) -> None:
        """A lease that nobody holds."""
        self._entries[entry.id] = entry

    def remove(self, id: int) -> Open | None:
        """It is settled, or of no concern any more."""
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._let_go(entry)
        return entry

    def hold(self, entry: Open, holder: str, wire: Lease, now: float) -> None:
        """A generator works on it from now on."""
        self._let_go(entry)
        entry.holder, entry.wire, entry.granted, entry.sent = holder, wire, now, now
        self._held.setdefault(holder, {})[entry.id] = entry
        self._loads[holder] = self._loads.get(holder, 0) + wire.group_size

    def release(self, entry: Open) -> None:
        """Nobody works on it."""
        self._let_go(entry)
        entry.holder, entry.wire = None, None

    def held_by(self, holder: str) -> list[Open]:
        """What a generator works on."""
        return [*self._held.get(holder, {}).values()]

    def count(self, holder: str) -> int:
        """How many leases a generator works on."""
        return len(self._held.get(holder, {}))

    def load(self, holder: str) -> int:
        """How many completions a generator works on."""
        return self._loads.get(holder, 0)

    def oldest_seconds(self, now: float) -> float:
        """Age of the lease that has been out longest."""
        return max((now - o.granted for o in self if o.holder), default=0.0)

    def holders(self, leases: list[int]) -> Counter[str]:
        """Who holds these leases ("nobody" if they wait for a generator)."""
        return Counter(e.holder or "nobody" for e in map(self.get, leases) if e)

    def _let_go(self, entry: Open) -> None:
        if entry.holder is None or entry.wire is None:
            return
        held = self._held[entry.holder]
        del held[entry.id]
        self._loads[entry.holder] -= entry.wire.group_size
        if not held:
            del self._held[entry.holder], self._loads[entry.holder]
