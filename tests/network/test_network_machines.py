"""The machines and cables that network faults are made with: they cut, delay and lose what they
say, and only there."""

import random
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.network.bad_cable import Way
from tests.network.namespaces import Machines, NoNamespacesError

DEADLINE = 60.0
UNREACHED_SECONDS = 1.0
DELAY = 0.2
PORT = 7000


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Machines(["a", "b", "c"]))
        except NoNamespacesError as reason:
            pytest.skip(str(reason))
        yield made


def connect(machines: Machines, here: str, there: str, timeout: float) -> socket.socket:
    with machines.inside(here):
        return socket.create_connection((machines.addresses[there], PORT), timeout)


@contextmanager
def echo(machines: Machines, name: str) -> Iterator[None]:
    """A server that sends back what it gets, one connection after another."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    with machines.inside(name):
        server = socket.create_server((machines.addresses[name], PORT))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(DEADLINE)


@contextmanager
def spoiled(machines: Machines, name: str, *, delay: float, loss: float) -> Iterator[None]:
    with machines.bad_cable(delay=delay, loss=loss, seed=5):
        machines.spoil(name)
        try:
            yield
        finally:
            machines.mend(name)


def round_trip(connection: socket.socket, data: bytes) -> bytes:
    connection.settimeout(DEADLINE)
    sending = threading.Thread(target=connection.sendall, args=(data,), daemon=True)
    sending.start()
    got = b""
    while len(got) < len(data):
        got += connection.recv(65536)
    sending.join(DEADLINE)
    return got


def reaches(machines: Machines, here: str, there: str) -> bool:
    """Whether anything comes back."""
    try:
        connect(machines, here, there, UNREACHED_SECONDS).close()
    except TimeoutError:
        return False
    return True


def test_a_pulled_cable_cuts_one_machine_and_loses_nothing_of_a_connection(
    machines: Machines,
) -> None:
    with echo(machines, "b"), closing(connect(machines, "a", "b", DEADLINE)) as connection:
        assert round_trip(connection, b"before") == b"before"
        machines.pull("b")
        connection.sendall(b"meanwhile")
        assert not select.select([connection], [], [], UNREACHED_SECONDS)[0]
        assert not reaches(machines, "c", "b")
        with echo(machines, "c"):
            assert reaches(machines, "a", "c")
        machines.replug("b")
        connection.settimeout(DEADLINE)
        assert connection.recv(100) == b"meanwhile"


def test_a_slow_cable_delays_both_ways_and_changes_nothing(machines: Machines) -> None:
    data = random.Random(1).randbytes(1 << 20)
    with (
        spoiled(machines, "b", delay=DELAY, loss=0.0),
        echo(machines, "b"),
        closing(connect(machines, "a", "b", DEADLINE)) as connection,
    ):
        began = time.monotonic()
        assert round_trip(connection, b"x") == b"x"
        assert time.monotonic() - began >= 2 * DELAY
        assert round_trip(connection, data) == data
    with echo(machines, "b"):
        assert reaches(machines, "a", "b")


def test_a_bad_cable_loses_datagrams_and_connections_get_over_it(machines: Machines) -> None:
    data = random.Random(2).randbytes(1 << 20)
    address = (machines.addresses["b"], PORT)
    with machines.inside("b"):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(address)
    with machines.inside("a"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(receiver), closing(sender), spoiled(machines, "b", delay=0.0, loss=0.3):
        got, sent = 0, 500
        for _ in range(sent):
            sender.sendto(b"x", address)
            while select.select([receiver], [], [], 0.002)[0]:
                got += len(receiver.recv(100))
        while select.select([receiver], [], [], UNREACHED_SECONDS)[0]:
            got += len(receiver.recv(100))
    assert 0.5 * sent < got < 0.9 * sent
    with (
        spoiled(machines, "b", delay=0.0, loss=0.05),
        echo(machines, "b"),
        closing(connect(machines, "a", "b", DEADLINE)) as connection,
    ):
        assert round_trip(connection, data) == data


def test_nothing_outside_is_reached(machines: Machines) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, machines.inside("a"):
        for address in (server.getsockname(), ("192.0.2.1", 80)):
            with pytest.raises(OSError, match=r"refused|unreachable"):
                socket.create_connection(address, UNREACHED_SECONDS)


frames = st.lists(st.tuples(st.binary(max_size=3), st.floats(0, 5)), max_size=30)


@given(frames, st.floats(0, 2))
def test_frames_come_out_in_order_and_not_before_their_time(
    given_frames: list[tuple[bytes, float]], delay: float
) -> None:
    way = Way(delay=delay, loss=0.0, rng=random.Random(0))
    now, sent, came = 0.0, [], []
    for frame, pause in given_frames:
        now += pause
        way.put(frame, now)
        sent.append((frame, now))
        came += [(out, now) for out in way.take(now)]
    while (due := way.next()) is not None:
        came += [(out, due) for out in way.take(due)]
    assert [frame for frame, _ in came] == [frame for frame, _ in sent]
    assert all(at >= put + delay for (_, at), (_, put) in zip(came, sent, strict=True))
