"""What strangers may send to the coordinator's port: noise, broken greetings, frames without end.
Over real sockets; nothing of it may stop the router, fill its memory or keep its files open."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import zmq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncds.protocol import wire
from asyncds.protocol.codec import (
    MAX_FRAME_BYTES,
    ProtocolError,
    decode_to_coordinator,
    encode,
)
from asyncds.protocol.records import RunStatus
from asyncds.transport.keys import load_client_keys, load_server_keys, make_keys
from asyncds.transport.observer import Observer
from asyncds.transport.router import UNFINISHED_BYTES, Router

DEADLINE = 20.0
CUT_SECONDS = 15.0
"""Below the 22 s after which a peer without heartbeats is cut, and the 30 s for a handshake."""
MIB = 1 << 20
PROCESS = psutil.Process()


def greeting(mechanism: bytes) -> bytes:
    """ZMTP 3.1: signature, version, mechanism, role, filler."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, body: bytes) -> bytes:
    """A long ZMTP command frame."""
    content = bytes([len(name)]) + name + body
    return b"\x06" + len(content).to_bytes(8, "big") + content


READY = command(b"READY", b"\x0bSocket-Type\x00\x00\x00\x06DEALER")
HELLO = command(b"HELLO", bytes(194))
INITIATE = command(b"INITIATE", bytes(300))


class Served:
    """A router in a thread that answers every `Observe`."""

    def __init__(self, keys: Path | None, *, unfinished_bytes: int = UNFINISHED_BYTES) -> None:
        self.keys = keys and load_client_keys(
            server=keys / "server.key", secret=keys / "client.key_secret"
        )
        server = keys and load_server_keys(
            secret=keys / "server.key_secret", clients=keys / "clients"
        )
        self.router = Router(
            host="127.0.0.1", port=0, keys=server, unfinished_bytes=unfinished_bytes
        )
        self.noise = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.router.port), DEADLINE)

    def answers(self) -> bool:
        address = f"tcp://127.0.0.1:{self.router.port}"
        with closing(Observer(address, keys=self.keys)) as observer:
            return observer.status(DEADLINE) == RunStatus(name="well")

    def settled(self, files: int) -> bool:
        """Whether no more than `files` are open, once what was closed has been noticed."""
        deadline = time.monotonic() + DEADLINE
        while PROCESS.num_fds() > files:
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.02)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            for peer, frame in self.router.receive(0.05):
                try:
                    message = decode_to_coordinator(frame)
                except ProtocolError:
                    self.noise += 1
                    continue
                if isinstance(message, wire.Observe):
                    self.router.send(peer, encode(wire.Status(run=RunStatus(name="well"))))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        self.router.close()


@pytest.fixture(scope="module", params=["plain", "curve"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    keys = None
    if request.param == "curve":
        keys = tmp_path_factory.mktemp("keys")
        make_keys(keys, ["client"])
    with closing(Served(keys)) as served:
        assert served.answers()
        yield served


def memory() -> int:
    rss: int = PROCESS.memory_info().rss
    return rss


GREETINGS = [greeting(m) for m in (b"NULL", b"CURVE", b"PLAIN", b"", b"\xff" * 20)]
WHOLE = [g + rest for g in GREETINGS for rest in (b"", READY, HELLO, HELLO + INITIATE)]


@st.composite
def _noise(draw: st.DrawFn) -> bytes:
    """The start of a conversation, cut, with bytes changed, and noise behind it."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    del data[draw(st.integers(0, len(data))) :]
    for at in draw(st.lists(st.integers(0, 400), max_size=4)):
        if at < len(data):
            data[at] = draw(st.integers(0, 255))
    return bytes(data) + draw(st.binary(max_size=100))


@settings(max_examples=40)
@example(noise=[bytes(64)])
@example(noise=[b"GET / HTTP/1.1\r\n\r\n"])
@given(noise=st.lists(_noise(), min_size=20, max_size=20))
def test_greetings_that_are_cut_or_nonsense_leave_others_served(
    served: Served, noise: list[bytes]
) -> None:
    files = PROCESS.num_fds()
    for data in noise:
        with served.connect() as connection:
            connection.sendall(data)
    assert served.answers()
    assert served.settled(files + 4)


def test_thousands_of_connections_of_noise_leave_no_memory_or_files_behind(
    served: Served,
) -> None:
    rng = random.Random(0)
    before, files = 0, PROCESS.num_fds()
    for i in range(3000):
        if i == 1000:
            before = memory()
        start = rng.choice(WHOLE)
        with served.connect() as connection:
            connection.sendall(start[: rng.randrange(len(start) + 1)] + rng.randbytes(50))
    assert served.settled(files + 4)
    assert served.answers()
    assert memory() - before < 16 * MIB
    assert sum(served.router.rejections.counts.values()) > 1000


def test_who_is_gone_before_it_is_accepted_may_have_spoken() -> None:
    """Its message has no sender's address then: in the protocol's first version, which has no
    handshake, everything may have been said. Many try, since it is a race."""
    identity, frame = b"\x01\x00", b"\x06\x00noise"
    with closing(Served(None)) as served:
        for _ in range(1000):
            with served.connect() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(identity + frame)
        assert served.answers()
        assert served.noise > 0


def test_random_frames_are_no_messages_and_leave_others_served() -> None:
    """From a peer that may speak: its frames are noise, or messages with bytes changed."""
    rng = random.Random(1)
    with closing(Served(None)) as served, zmq.Context() as context:
        with context.socket(zmq.DEALER) as dealer:
            dealer.connect(f"tcp://127.0.0.1:{served.router.port}")
            whole = encode(wire.Bye(reason="r"))
            for i in range(4000):
                if i % 2:
                    frame = bytearray(whole)
                    frame[rng.randrange(len(frame))] = rng.randrange(256)
                    dealer.send(bytes(frame[: rng.randrange(len(frame) + 1)]))
                else:
                    parts = [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 4))]
                    dealer.send_multipart(parts)
            assert served.answers()
        deadline = time.monotonic() + DEADLINE
        while served.noise < 3000:
            assert time.monotonic() < deadline
            assert served.answers()


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [b"\x02", b"\x06"], ids=["message", "command"])
@pytest.mark.parametrize("introduced", [False, True])
def test_who_announces_a_frame_over_the_limit_is_cut_off(
    served: Served, introduced: bool, kind: bytes, size: int
) -> None:
    mechanism = b"NULL" if served.keys is None else b"CURVE"
    start = {(True, b"NULL"): READY, (True, b"CURVE"): HELLO}.get((introduced, mechanism), b"")
    before = memory()
    with served.connect() as connection:
        connection.sendall(greeting(mechanism) + start + kind + size.to_bytes(8, "big"))
        assert cut(connection)
    assert memory() - before < 16 * MIB
    assert served.answers()


def test_who_sends_a_message_that_does_not_end_is_cut_off() -> None:
    """And who sends as much in messages that do is not."""
    with (
        closing(Served(None, unfinished_bytes=4 * MIB)) as served,
        served.connect() as endless,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as honest,
    ):
        honest.connect(f"tcp://127.0.0.1:{served.router.port}")
        endless.sendall(greeting(b"NULL") + READY)
        answer = b""
        while b"READY" not in answer:
            answer += endless.recv(1 << 16)
        parts = b"\x01\x0aten bytes!" * (MIB // 12)
        counts, sent = served.router.rejections.counts, 0
        while counts["endless"] == 0:
            assert sent < 200, "it is not cut off"
            with suppress(ConnectionError):
                endless.sendall(parts)
            honest.send(bytes(MIB))
            honest.send(encode(wire.Observe()))
            assert honest.poll(int(DEADLINE * 1000))
            honest.recv()
            sent += 1
        assert sent > 4
        assert counts["endless"] == 1
        assert served.noise == sent, "all of what the other said was heard"


def test_the_same_where_links_are_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ZeroMQ's own client, which sends nothing before the end: of so many parts that they take
    longer than a look at what has come."""
    monkeypatch.setattr("asyncds.transport.unfinished.LOOK_SECONDS", 0.0)
    make_keys(tmp_path / "keys", ["client"])
    with (
        closing(Served(tmp_path / "keys", unfinished_bytes=MIB)) as served,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        assert served.keys is not None
        dealer.setsockopt(zmq.LINGER, 0)
        served.keys.apply(dealer)
        dealer.connect(f"tcp://127.0.0.1:{served.router.port}")
        for _ in range(1 << 20):
            dealer.send(bytes(100), zmq.SNDMORE)
        dealer.send(b"")
        deadline = time.monotonic() + DEADLINE
        while served.router.rejections.counts["endless"] == 0:
            assert time.monotonic() < deadline, "it is not cut off"
            assert served.answers()
        assert served.noise == 0


def test_announcing_large_frames_and_not_sending_them_takes_no_memory(served: Served) -> None:
    before = memory()
    mechanism, start = (b"NULL", READY) if served.keys is None else (b"CURVE", b"")
    idle = [served.connect() for _ in range(20)]
    for connection in idle:
        header = b"\x02" + MAX_FRAME_BYTES.to_bytes(8, "big")
        connection.sendall(greeting(mechanism) + start + header + b"x")
    assert served.answers()
    assert memory() - before < 32 * MIB
    for connection in idle:
        connection.close()
    assert served.answers()


def cut(connection: socket.socket) -> bool:
    """Whether the other side closes before a missing heartbeat or handshake would make it."""
    deadline = time.monotonic() + CUT_SECONDS
    try:
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(1 << 16):
                return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return False
