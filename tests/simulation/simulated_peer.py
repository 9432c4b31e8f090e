"""One simulated process's link to the coordinator."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from asyncds.protocol import wire

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class Peer(ABC):
    """One end of a link, with the rules of asyncds.transport.link."""

    def __init__(self, sim: "Simulation", name: str, identity: str) -> None:
        self.sim, self.name = sim, name
        self.peer = f"{name}:{identity}".encode()
        self.alive = True
        self.welcomed = False
        self.cut_until = 0.0
        self._outbox: list[wire.Message] = []
        self._heartbeat_seconds = sim.config.coordinator.heartbeat_seconds
        self._next_hello = self._next_heartbeat = 0.0
        sim.introduce(self)

    @abstractmethod
    def hello(self) -> wire.Message: ...

    @abstractmethod
    def heartbeat(self) -> wire.Message: ...

    @abstractmethod
    def receive(self, message: wire.Message) -> None: ...

    def send(self, message: wire.Message) -> None:
        if self.welcomed:
            self.sim.to_coordinator(self, message)
        else:
            self._outbox.append(message)

    def link_turn(self, now: float) -> None:
        if not self.welcomed and now >= self._next_hello:
            self._next_hello = now + 1
            self.sim.to_coordinator(self, self.hello())
        if self.welcomed and now >= self._next_heartbeat:
            self._next_heartbeat = now + self._heartbeat_seconds
            self.sim.to_coordinator(self, self.heartbeat())

    def take(self, message: wire.Message) -> None:
        if isinstance(message, wire.Identify):
            self.welcomed, self._next_hello = False, 0.0
            return
        if isinstance(message, wire.Welcome):
            self.welcomed = True
            queued, self._outbox = self._outbox, []
            for waiting in queued:
                self.send(waiting)
        self.receive(message)
