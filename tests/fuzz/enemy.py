"""Hostile input of every kind, all drawn from one seed.

Strangers, who may connect but have not introduced themselves, flood the control plane and never
read what they are answered. Members send hostile frames between the honest ones of their link.
Noise comes in on raw connections, to the metrics server too; where links are encrypted also from
clients without a key that is allowed. What only a trusted client can say (a well-formed
introduction, a stop) is left out: it is taken at its word (docs/security.md).
"""

import random
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import zmq

from asyncds.protocol import wire
from asyncds.protocol.codec import ProtocolError, decode_to_coordinator, encode, pack_group
from tests.simulation.simulated_generator import SimGenerator
from tests.support.rollout_groups import make_group
from tests.support.socket_run import SocketRun, received

STRANGERS = 4
FLOOD = 150
"""Frames of each stranger between two looks at the honest peers."""
MEMBER_FRAMES = 12
"""Frames of each member once the ones before were dealt with: honest ones queue behind them."""
IDLE_CONNECTIONS = 20
NOISE_FRAMES = 10
"""Noise on a raw connection may be so many: ZMTP 1.0 has no handshake, and frames of a byte."""
KEPT = 200
"""Frames of honest peers that are remembered, to be said again and to be changed."""
INTRODUCTIONS = (wire.GeneratorHello, wire.LearnerHello)
TAGS = [kind.__name__.encode() for kind in wire.ToCoordinator.__args__]
HTTP = (
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: " + b";q=,/" * 5000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
)


class Enemy:
    """count: frames, connections and requests sent. rejected: frames that have to be counted as
    rejected. doubtful: frames that may be, since it depends on what comes in between or how noise
    is read."""

    def __init__(self, run: SocketRun, *, seed: int) -> None:
        self.run = run
        self.rng = random.Random(seed)
        self.count = self.rejected = self.doubtful = self.connections = 0
        self.kinds: Counter[str] = Counter()
        self._strangers = [run.dealer(sndhwm=1000, rcvhwm=1) for _ in range(STRANGERS)]
        self._probe = run.dealer()
        self._probe.send(encode(wire.Observe()))
        self._idle: deque[socket.socket] = deque()
        self._overheard: list[bytes] = []

    def attack(self) -> None:
        """A burst from everybody; what does not get through for now is not sent."""
        self._overhear()
        for stranger in self._strangers:
            for _ in range(FLOOD):
                parts, rejected = self._foreign()
                try:
                    stranger.send_multipart(parts, zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._sent("stranger", rejected=rejected)
        if list(received(self._probe)):
            for member in self.run.members():
                self._from_generator(member)
            self._from_learner()
            self._probe.send(encode(wire.Observe()))
        for _ in range(4):
            self._connect(self.run.port, self._greeting())
        self._connect(self.run.metrics_port, self._request())
        if self.run.keys is not None:
            self._without_a_key()

    def withdraw(self) -> None:
        """Read what there is to read, and close everything."""
        for stranger in self._strangers:
            list(received(stranger))
            stranger.close()
        for connection in self._idle:
            connection.close()
        self._probe.close()

    def _sent(self, kind: str, *, rejected: bool = False, doubtful: int = 0) -> None:
        self.count += 1
        self.kinds[kind] += 1
        self.rejected += rejected
        self.doubtful += doubtful

    def _overhear(self) -> None:
        new = [frame for frames in self.run.said.values() for frame in frames[-10:]]
        self._overheard = [*self._overheard, *self.rng.sample(new, min(5, len(new)))][-KEPT:]

    # --- frames ---------------------------------------------------------------------------------

    def _foreign(self) -> tuple[list[bytes], bool]:
        """A message of a stranger, and whether it has to be counted as rejected."""
        rng = self.rng
        pick = rng.random()
        if pick < 0.05:
            size = rng.choice([2, 3, 7, 300])
            return [rng.randbytes(rng.randrange(4)) for _ in range(size)], True
        if pick < 0.10:
            return [encode(self._unwelcome())], True
        if pick < 0.15:
            return [encode(wire.Observe())], False
        make = rng.choice([self._random, self._changed, self._wrong_types, self._bomb, self._again])
        while True:
            frame = make()
            taken = understood(frame)
            if taken is None:
                return [frame], True
            if not isinstance(taken, (*INTRODUCTIONS, wire.Stop)):
                return [frame], False

    def _random(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 2, 9, 100, 1000]))

    def _again(self) -> bytes:
        return self.rng.choice(self._overheard)

    def _changed(self) -> bytes:
        """A frame of an honest peer, cut off, with bytes changed, put in, or doubled."""
        rng = self.rng
        frame = bytearray(self._again())
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(frame) + 1)
            match rng.randrange(4):
                case 0:
                    del frame[at:]
                case 1 if at < len(frame):
                    frame[at] = rng.randrange(256)
                case 2:
                    frame[at:at] = rng.randbytes(rng.randrange(8))
                case 3:
                    frame += frame[at:]
        return bytes(frame)

    def _wrong_types(self) -> bytes:
        """A message of a known kind whose fields are of any types and number."""
        fields = [self._value(3) for _ in range(self.rng.randrange(14))]
        return msgspec.msgpack.encode([self.rng.choice(TAGS).decode(), *fields])

    def _value(self, depth: int) -> Any:
        rng = self.rng
        makers: list[Callable[[], Any]] = [
            lambda: rng.choice([0, -1, 2**31, 2**63, 2**64 - 1, -(2**63)]),
            lambda: rng.choice([float("nan"), float("inf"), -0.0, 1e308]),
            lambda: rng.choice([None, True, "", "é" * 50, b"", rng.randbytes(20)]),
        ]
        if depth:
            makers += [
                lambda: [self._value(depth - 1) for _ in range(rng.randrange(4))],
                lambda: {str(i): self._value(depth - 1) for i in range(rng.randrange(4))},
            ]
        return rng.choice(makers)()

    def _bomb(self) -> bytes:
        """Lengths that are not there, nesting without end."""
        rng = self.rng
        head = bytes([0x90 + rng.randrange(1, 16), 0xA0 + len(tag := rng.choice(TAGS))]) + tag
        endless = struct.pack(">I", rng.choice([2**31, 2**32 - 1, 10**6]))
        return rng.choice(
            [
                head + b"\xdd" + endless,
                head + b"\xdf" + endless,
                head + b"\xdb" + endless,
                head + b"\xc6" + endless,
                b"\xdd" + endless,
                head + b"\x91" * rng.choice([50, 5000]),
                head + b"\x81\xa1a" * rng.choice([50, 5000]),
                head + b"\xc9" + endless + b"\x01",
            ]
        )

    def _unwelcome(self) -> wire.Message:
        """An introduction that has to be refused."""
        rng = self.rng
        generator, learner = self.run.members()[0].hello(), self.run.learner
        assert isinstance(generator, wire.GeneratorHello)
        assert learner is not None
        rank = learner.ranks[0].hello()
        change = msgspec.structs.replace
        return rng.choice(
            [
                change(generator, name="x", incarnation="x", protocol=rng.randrange(99, 200)),
                change(generator, name="x", incarnation="x", tokenizer="another"),
                change(generator, name="x", incarnation="x", data="another"),
                change(generator, name="x", incarnation="x", rows={}),
                change(rank, incarnation="x", protocol=0),
                change(rank, incarnation="x", tokenizer="another"),
                change(rank, incarnation="x", rank=rng.randrange(1, 9), ranks=1),
            ]
        )

    # --- from the links of members --------------------------------------------------------------

    def _from_generator(self, generator: SimGenerator) -> None:
        """Said by a member, between its honest frames, which wait behind these."""
        rng, run = self.rng, self.run
        if not generator.welcomed:
            return
        others = [g for g in run.members() if g is not generator]
        for _ in range(MEMBER_FRAMES):
            match rng.randrange(6):
                case 0:
                    self._garbled(generator.peer)
                case 1:
                    self._repeated(generator.peer)
                case 2:  # a lease that never was
                    lease = rng.choice([-1, 0, 10**9, 2**63 - 1, -(2**63)])
                    self._say(generator.peer, self._delivered(lease), rejected=True)
                case 3:  # a lease of another
                    theirs = [*rng.choice(others).work]
                    if theirs:
                        stolen = self._delivered(rng.choice(theirs))
                        self._say(generator.peer, stolen, doubtful=1)
                case 4:
                    request = wire.BatchRequest(rank=0, step=0, report={})
                    self._say(generator.peer, request, rejected=True)
                case 5:
                    alive = wire.LearnerHeartbeat(rank=0, staged=99, checkpoint=99, phase="x")
                    self._say(generator.peer, alive, rejected=True)

    def _from_learner(self) -> None:
        learner = self.run.learner
        if learner is None or not learner.ranks[0].welcomed:
            return
        peer = learner.ranks[0].peer
        for _ in range(MEMBER_FRAMES):
            match self.rng.randrange(5):
                case 0:
                    self._garbled(peer)
                case 1:
                    self._repeated(peer)
                case 2:
                    self._say(peer, self._delivered(1), rejected=True)
                case 3:
                    foreign = wire.GeneratorHeartbeat(leases=[1], stats={})
                    self._say(peer, foreign, rejected=True)
                case 4:
                    request = wire.BatchRequest(rank=7, step=learner.step, report={})
                    self._say(peer, request, rejected=True)

    def _delivered(self, lease: int) -> wire.Delivered:
        return wire.Delivered(
            lease=lease,
            attempt=self.rng.choice([1, 2, 2**31 - 1]),
            group=pack_group(make_group(correct=(True, True), prompt=(lease & 0xFFFF,))),
        )

    def _say(
        self, peer: bytes, message: wire.Message, *, rejected: bool = False, doubtful: int = 0
    ) -> None:
        self.run.sockets[peer].send(encode(message), zmq.NOBLOCK)
        self._sent("member", rejected=rejected, doubtful=doubtful)

    def _garbled(self, peer: bytes) -> None:
        frame = self._changed()
        if understood(frame) is None:
            self.run.sockets[peer].send(frame, zmq.NOBLOCK)
            self._sent("member", rejected=True)

    def _repeated(self, peer: bytes) -> None:
        """What it said itself, lately or long ago."""
        said = self.run.said[peer]
        frame = self.rng.choice(said[-30:] if self.rng.random() < 0.5 else said)
        self.run.sockets[peer].send(frame, zmq.NOBLOCK)
        self._sent("member")

    # --- raw connections ------------------------------------------------------------------------

    def _greeting(self) -> bytes:
        rng = self.rng
        mechanism = rng.choice([b"NULL", b"CURVE", b"PLAIN", b"", rng.randbytes(20)])
        start = b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)
        ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        whole = start + rng.choice([b"", ready, ready + b"\x02" + struct.pack(">Q", 2**62)])
        return whole[: rng.randrange(len(whole) + 1)] + rng.randbytes(rng.choice([0, 0, 9, 300]))

    def _request(self) -> bytes:
        request = bytearray(self.rng.choice(HTTP))
        if self.rng.random() < 0.3:
            del request[self.rng.randrange(len(request)) :]
        return bytes(request) if self.rng.random() < 0.8 else self.rng.randbytes(200)

    def _connect(self, port: int, data: bytes) -> None:
        """Say it and close, or stay there without another word."""
        connection = socket.create_connection(("127.0.0.1", port), 5)
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        self._sent("connection", doubtful=NOISE_FRAMES)
        self._idle.append(connection)
        while len(self._idle) > (IDLE_CONNECTIONS if self.rng.random() < 0.5 else 0):
            self._idle.popleft().close()

    def _without_a_key(self) -> None:
        """A client whose key nobody allowed, or that does not encrypt."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            if self.rng.random() < 0.5 and self.run.keys is not None:
                public, secret = zmq.curve_keypair()
                dealer.setsockopt(zmq.CURVE_SERVERKEY, self.run.keys.server)
                dealer.setsockopt(zmq.CURVE_PUBLICKEY, public)
                dealer.setsockopt(zmq.CURVE_SECRETKEY, secret)
            dealer.connect(self.run.address)
            dealer.send(encode(wire.Observe()))
            self._sent("connection")
            assert not dealer.poll(20), "nobody without a key is answered"


def understood(frame: bytes) -> Any:
    """The message, or None if it is none."""
    try:
        return decode_to_coordinator(frame)
    except ProtocolError:
        return None
