"""Staleness: which rollouts to start, which to train on, which to give up.

One object owns admission, selection and eviction, so that they can't drift apart. It is a pure
state machine; time is an argument. The unit is a *ticket*, the scheduler's view of one training
lease: LEASED (a generator works on it), WAITING (to be granted again), or DELIVERED.

Symbols: B groups per step, p steps per published version, s the next step, v(s) = ⌊s/p⌋ the
learner's version at step s. Lag of a group = v at consumption − oldest version of its tokens.

Admission. The n-th outstanding ticket (n from 0) is consumed at step s + ⌊n/B⌋ if nothing is lost.
Started by a generator whose weights have version g, it will then lag by v(s + ⌊n/B⌋) − g. It is
admitted while that is at most `target_lag`. With p = 1:

    target_lag 0, B = 2, s = 0, g = 0:  tickets 0 and 1 (consumed at v 0) are admitted, ticket 2
    (consumed at v 1) is not, until batch 0 is trained and the generator has v 1: synchronous.
    target_lag 1: tickets 0 … 3 are admitted, so generation is one batch ahead.

So at most (target_lag + 1)·B·p groups are between lease and consumption; nothing is sampled in
order to be thrown away.

Selection. Anchored windowed FIFO: a batch is the B oldest delivered tickets out of the `window`
places that begin at the oldest ticket that is not delivered, its anchor, and those before it.
Younger tickets may pass a straggler, but only `window` − 1 of them, however long it takes: the
places of those that were trained or dropped stay in the window until the anchor is delivered.
The hard bound is checked here once more: a ticket over `max_lag` is evicted, never selected.

Holding. To study staleness, `hold` makes groups as old as `target_lag` allows: a batch is selected
only while target_lag·p·B tickets (or all there are still to come) are delivered. Admission goes by
versions, so that after the first steps every batch lags by `target_lag`, however fast anybody is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class TicketState(Enum):
    """Where a training lease stands."""

    LEASED = "leased"
    WAITING = "waiting"
    DELIVERED = "delivered"


@dataclass(kw_only=True)
class Ticket:
    """One outstanding training lease.

    oldest: version of the oldest token once DELIVERED; while LEASED, that of the generator's
    weights at the grant, which no token can be older than. place: its number in lease order.
    """

    id: int
    state: TicketState
    oldest: int = 0
    place: int = 0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A batch, and what was evicted on the way. batch is None while there are too few groups."""

    batch: list[int] | None
    evicted: list[int]


class Scheduler:
    """Admits, selects and evicts training leases. Ids must be given in ascending order."""

    def __init__(
        self,
        *,
        groups_per_step: int,
        target_lag: int,
        max_lag: int,
        window: int,
        publish_every: int,
        total_steps: int,
        hold: bool = False,
    ) -> None:
        if not 0 <= target_lag <= max_lag:
            raise ValueError(f"target_lag {target_lag} must lie between 0 and max_lag {max_lag}")
        if window < groups_per_step:
            raise ValueError(f"window {window} can't hold a batch of {groups_per_step} groups")
        self._per_step = groups_per_step
        self._target_lag = target_lag
        self._max_lag = max_lag
        self._window = window
        self._publish_every = publish_every
        self._total_steps = total_steps
        self._hold = hold
        self._tickets: dict[int, Ticket] = {}
        self._places = 0
        self.step = 0
        """The next step a batch is to be selected for."""

    def version_at(self, step: int) -> int:
        """v(step), the learner's version when it trains batch `step`."""
        return step // self._publish_every

    @property
    def outstanding(self) -> int:
        """Tickets between lease and selection."""
        return len(self._tickets)

    def count(self, state: TicketState) -> int:
        """Outstanding tickets in this state."""
        return sum(t.state is state for t in self._tickets.values())

    def admissible(self, generator_version: int) -> int:
        """How many new tickets may start on a generator with these weights."""
        last_step = (generator_version + self._target_lag + 1) * self._publish_every
        steps = min(last_step, self._total_steps) - self.step
        return max(0, steps * self._per_step - len(self._tickets))

    def restartable(self, generator_version: int) -> bool:
        """Whether a WAITING ticket, begun again on these weights, could still be trained on."""
        return self.version_at(self.step) - generator_version <= self._max_lag

    def add(self, ticket: int, state: TicketState, oldest: int = 0) -> None:
        """A new ticket (or one read back from the journal)."""
        if self._tickets and ticket <= next(reversed(self._tickets)):
            raise ValueError(f"ticket {ticket} is out of order")
        self._tickets[ticket] = Ticket(id=ticket, state=state, oldest=oldest, place=self._places)
        self._places += 1

    def lease(self, ticket: int, generator_version: int) -> None:
        """A WAITING ticket was granted to a generator with these weights."""
        self._tickets[ticket].state = TicketState.LEASED
        self._tickets[ticket].oldest = generator_version

    def release(self, ticket: int) -> None:
        """The generator lost it; it keeps its place and waits for another."""
        self._tickets[ticket].state = TicketState.WAITING

    def deliver(self, ticket: int, oldest_version: int) -> bool:
        """The group is in the journal. False if the ticket is no longer outstanding."""
        if ticket not in self._tickets:
            return False
        self._tickets[ticket].state = TicketState.DELIVERED
        self._tickets[ticket].oldest = oldest_version
        return True

    def drop(self, ticket: int) -> None:
        """The ticket failed for good."""
        self._tickets.pop(ticket, None)

    def waiting(self) -> list[int]:
        """Tickets that need a generator, oldest first."""
        return [t.id for t in self._tickets.values() if t.state is TicketState.WAITING]

    def select(self) -> Selection:
        """The batch for `step`, if there is one; then `step` is the next one and the batch's
        tickets are no longer outstanding."""
        version = self.version_at(self.step)
        evicted = [
            t.id
            for t in self._tickets.values()
            if t.state is not TicketState.WAITING and version - t.oldest > self._max_lag
        ]
        for ticket in evicted:
            del self._tickets[ticket]
        delivered = [t.id for t in self._in_window() if t.state is TicketState.DELIVERED]
        if (
            len(delivered) < self._per_step
            or self.step >= self._total_steps
            or self.count(TicketState.DELIVERED) < self._held
        ):
            return Selection(batch=None, evicted=evicted)
        batch = delivered[: self._per_step]
        for ticket in batch:
            del self._tickets[ticket]
        self.step += 1
        return Selection(batch=batch, evicted=evicted)

    @property
    def _held(self) -> int:
        """How many delivered tickets there must be before a batch is taken from them."""
        if not self._hold:
            return 0
        ahead = min(self._target_lag * self._publish_every, self._total_steps - self.step)
        return ahead * self._per_step

    def blockers(self) -> list[int]:
        """Tickets inside the window that the next batch waits for, oldest first."""
        return [t.id for t in self._in_window() if t.state is not TicketState.DELIVERED]

    def _in_window(self) -> list[Ticket]:
        tickets = self._tickets.values()
        # A delivered ticket is no anchor: it only waits for enough others to make a batch, and
        # where places of its window fell to dropped tickets there would never be enough.
        anchor = next((t for t in tickets if t.state is not TicketState.DELIVERED), None)
        return [t for t in tickets if anchor is None or t.place < anchor.place + self._window]

    def restore(self, step: int, tickets: Iterable[tuple[int, TicketState, int]]) -> None:
        """Start again at `step` with these tickets: (id, state, oldest version)."""
        self.step = step
        self._tickets, self._places = {}, 0
        for id, state, oldest in sorted(tickets, key=lambda t: t[0]):
            self.add(id, state, oldest)
