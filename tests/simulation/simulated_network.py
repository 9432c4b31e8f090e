"""The network of a simulated run: delays, and what is lost, doubled, overtaken or cut off."""

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.simulated_faults import Faults
from tests.simulation.simulated_peer import Peer


class Network:
    """Moves frames in the simulation's time. `now` is set by its owner."""

    def __init__(self, *, faults: Faults, rng: random.Random) -> None:
        self.faults, self.now = faults, 0.0
        self._rng = rng
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = itertools.count()
        self._fifo: dict[tuple[bytes, bool], float] = {}

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def due(self) -> None:
        """Do what is due."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def faulty(self, probability: float) -> bool:
        """Whether a fault of this probability happens."""
        return self.now < self.faults.until and self._rng.random() < probability

    def carry(self, peer: Peer, *, up: bool, arrive: Callable[[], Any]) -> None:
        """Have a frame of, or for, `peer` arrive: once in order, unless something goes wrong."""
        if self.now < peer.cut_until or self.faulty(self.faults.drop):
            return
        for _ in range(2 if self.faulty(self.faults.double) else 1):
            due = self.now + self._rng.uniform(0.01, 0.2)
            if self.faulty(self.faults.overtake):
                due += self._rng.uniform(0, 3)
            else:
                due = max(due, self._fifo.get((peer.peer, up), 0.0))
                self._fifo[peer.peer, up] = due
            self.after(due - self.now, arrive)
