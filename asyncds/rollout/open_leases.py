"""The leases that are open: where each stands, who works on it, how old its tokens may be.

A lease is *open* from the moment it is made until its group is in a batch, or it has failed or was
evicted; an evaluation's until its group is there. The journal is the record of this on the disk,
and this table is all that the coordinator keeps of it in memory: scheduler, evaluation round,
status and metrics read it here. A training lease:

    WAITING ⇄ LEASED → DELIVERED → (in a batch: no longer open)
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from asyncds.protocol.wire import Lease
from asyncds.rollout.attempts import AttemptBudget
from asyncds.rollout.lifecycle import OpenState, Purpose


@dataclass(kw_only=True)
class OpenLease:
    """A lease that is open.

    attempt: the number of its present or next attempt. budget: the attempts that count against it.
    evaluation, temperature: those of an evaluation's lease, which is for `samples` of the row's
    samples, from number `first` on. holder: the generator that works on it,
    if any, on `wire`; since `granted`. sent: when the grant was last sent. delivered: its group is
    in the journal. oldest: version of the oldest token of that group; before, of the generator's
    weights at the grant, which no token can be older than. place: its number in the order of
    training leases.
    """

    id: int
    purpose: Purpose
    row: int
    attempt: int = 1
    budget: AttemptBudget = field(default_factory=AttemptBudget)
    evaluation: int | None = None
    temperature: float | None = None
    first: int = 0
    samples: int | None = None
    holder: str | None = None
    granted: float = 0.0
    sent: float = 0.0
    wire: Lease | None = None
    delivered: bool = False
    oldest: int = 0
    place: int = 0

    @property
    def state(self) -> OpenState:
        """Where it stands."""
        if self.delivered:
            return OpenState.DELIVERED
        return OpenState.WAITING if self.holder is None else OpenState.LEASED

    def in_work(self, generator: str, attempt: int) -> bool:
        """Whether this generator works on it, at this attempt."""
        return self.holder == generator and self.attempt == attempt


class OpenLeases:
    """The table, by purpose, by holder and by id. Entries change by its methods only.

    With thousands of generators nobody looks through all leases for those of one.
    """

    def __init__(self, *, next_id: int = 1) -> None:
        """next_id: of the next lease, above those of all leases before."""
        self._next_id = next_id
        self._open: dict[Purpose, dict[int, OpenLease]] = {p: {} for p in Purpose}
        self._waiting: dict[Purpose, dict[int, OpenLease]] = {p: {} for p in Purpose}
        self._held: dict[str, dict[int, OpenLease]] = {}
        self._loads: Counter[str] = Counter()
        self._places = 0

    # --- what others read -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[OpenLease]:
        for purpose in Purpose:
            yield from list(self._open[purpose].values())

    def get(self, id: int) -> OpenLease | None:
        """The lease, if it is open."""
        return self._open[Purpose.TRAIN].get(id) or self._open[Purpose.EVAL].get(id)

    def undelivered(self, id: int) -> OpenLease | None:
        """The lease, if it is open and its group is not there yet."""
        entry = self.get(id)
        return None if entry is None or entry.delivered else entry

    def existed(self, id: int) -> bool:
        """Whether there ever was such a lease."""
        return 0 < id < self._next_id

    @property
    def training(self) -> list[OpenLease]:
        """Open training leases, oldest first."""
        return list(self._open[Purpose.TRAIN].values())

    @property
    def outstanding(self) -> int:
        """The number of open training leases."""
        return len(self._open[Purpose.TRAIN])

    @property
    def evaluating(self) -> int:
        """The number of open leases of evaluations."""
        return len(self._open[Purpose.EVAL])

    def of_problem(self, entry: OpenLease) -> list[OpenLease]:
        """The other leases of the same problem in the same evaluation."""
        return [
            other
            for other in self._open[Purpose.EVAL].values()
            if (other.evaluation, other.row) == (entry.evaluation, entry.row) and other is not entry
        ]

    def count(self, state: OpenState) -> int:
        """The number of open training leases in this state."""
        return sum(entry.state is state for entry in self._open[Purpose.TRAIN].values())

    def waiting(self, purpose: Purpose) -> list[OpenLease]:
        """Leases that need a generator, the next one first.

        For training the oldest, of evaluations the one that has waited longest.
        """
        waiting = list(self._waiting[purpose].values())
        return sorted(waiting, key=_id) if purpose is Purpose.TRAIN else waiting

    def held_by(self, holder: str) -> list[OpenLease]:
        """The leases that a generator works on."""
        return [*self._held.get(holder, {}).values()]

    def leases_of(self, holder: str) -> int:
        """How many leases a generator works on."""
        return len(self._held.get(holder, {}))

    def load(self, holder: str) -> int:
        """How many completions a generator works on."""
        return self._loads[holder]

    def oldest_seconds(self, now: float) -> float:
        """Age of the lease that has been out longest."""
        held = (entry for of_one in self._held.values() for entry in of_one.values())
        return max((now - entry.granted for entry in held), default=0.0)

    # --- what its owner does --------------------------------------------------------------------

    def make(
        self,
        *,
        purpose: Purpose,
        row: int,
        attempt: int = 1,
        evaluation: int | None = None,
        temperature: float | None = None,
        first: int = 0,
        samples: int | None = None,
    ) -> OpenLease:
        """Open a lease, which waits for a generator."""
        entry = OpenLease(
            id=self._next_id,
            purpose=purpose,
            row=row,
            attempt=attempt,
            evaluation=evaluation,
            temperature=temperature,
            first=first,
            samples=samples,
        )
        self._next_id += 1
        self._add(entry)
        return entry

    def hold(self, entry: OpenLease, wire: Lease, *, holder: str, version: int, now: float) -> None:
        """Give a lease to a generator that has weights `version`."""
        self.release(entry)
        del self._waiting[entry.purpose][entry.id]
        entry.holder, entry.wire, entry.granted, entry.sent = holder, wire, now, now
        entry.oldest = version
        self._held.setdefault(holder, {})[entry.id] = entry
        self._loads[holder] += wire.group_size

    def sent_again(self, entry: OpenLease, now: float) -> None:
        """Note that the grant of a lease was sent once more."""
        entry.sent = now

    def release(self, entry: OpenLease) -> None:
        """Take a lease from its holder; it keeps its place and waits for another."""
        self._let_go(entry)
        entry.holder = entry.wire = None
        self._waiting[entry.purpose][entry.id] = entry

    def try_again(self, entry: OpenLease) -> None:
        """Take a lease from its holder; the next one makes another attempt."""
        entry.attempt += 1
        self.release(entry)

    def deliver(self, entry: OpenLease, *, oldest: int) -> None:
        """The group of a training lease is in the journal."""
        self._let_go(entry)
        self._waiting[entry.purpose].pop(entry.id, None)
        entry.holder = entry.wire = None
        entry.delivered, entry.oldest = True, oldest

    def remove(self, entry: OpenLease) -> None:
        """Close a lease; its entry stays as it was."""
        if self._open[entry.purpose].pop(entry.id, None) is not None:
            self._waiting[entry.purpose].pop(entry.id, None)
            self._let_go(entry)

    def restore(self, entries: Iterable[OpenLease]) -> None:
        """Replace the training leases; of those that stay, who holds one keeps it."""
        stay = sorted(entries, key=_id)
        ids = {entry.id for entry in stay}
        for entry in self.training:
            if entry.id not in ids:
                self.remove(entry)
        self._open[Purpose.TRAIN].clear()
        self._waiting[Purpose.TRAIN].clear()
        self._places = 0
        for entry in stay:
            self._add(entry)

    def _add(self, entry: OpenLease) -> None:
        self._open[entry.purpose][entry.id] = entry
        if entry.state is OpenState.WAITING:
            self._waiting[entry.purpose][entry.id] = entry
        if entry.purpose is Purpose.TRAIN:
            entry.place = self._places
            self._places += 1

    def _let_go(self, entry: OpenLease) -> None:
        if entry.holder is None or entry.wire is None:
            return
        del self._held[entry.holder][entry.id]
        self._loads[entry.holder] -= entry.wire.group_size
        if not self._held[entry.holder]:
            del self._held[entry.holder], self._loads[entry.holder]


def _id(entry: OpenLease) -> int:
    return entry.id
