"""Links over real sockets on loopback: introductions, restarts, refusals, silence, bad frames."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psutil
import pytest
import zmq

from asyncds.config.operation import CoordinatorConfig
from asyncds.protocol import wire
from asyncds.protocol.codec import (
    MAX_FRAME_BYTES,
    ProtocolError,
    decode_to_coordinator,
    encode,
)
from asyncds.protocol.records import RunStatus
from asyncds.transport.announce import announce
from asyncds.transport.link import GivenUpError, Link, LinkLostError, RefusedError
from asyncds.transport.observer import Observer
from asyncds.transport.router import BindError, Router

DEADLINE = 20.0

HELLO = wire.GeneratorHello(
    name="g",
    incarnation="i",
    protocol=wire.PROTOCOL,
    workers=1,
    capacity=1,
    tokenizer="t",
    data="d",
    rows={},
    multiplicity={},
    sets=[],
    leases=[],
)
HEARTBEAT = wire.GeneratorHeartbeat(leases=[], stats={})


class Inbox:
    """What a link handed on, and a way to wait for it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._arrived = threading.Condition()

    def put(self, message: Any) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait(self, wanted: Any) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: wanted in self.messages, DEADLINE)


@pytest.fixture
def router() -> Iterator[Router]:
    with closing(Router(host="127.0.0.1", port=0)) as router:
        yield router


@contextmanager
def connected(
    port: int, inbox: Inbox, *, lost_seconds: float = DEADLINE, **changes: Any
) -> Iterator[Link]:
    settings = CoordinatorConfig(port=port, heartbeat_seconds=0.05, lost_seconds=lost_seconds)
    options: dict[str, Any] = {
        "identity": "g:i",
        "hello": lambda: HELLO,
        "heartbeat": lambda: HEARTBEAT,
        "on_message": inbox.put,
        "keys": None,
    }
    with closing(Link(settings, **options | changes)) as link:
        yield link


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread, with a deadline."""
    deadline = time.monotonic() + DEADLINE
    event = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        event.wait(0.01)


def expect(router: Router, wanted: wire.Message) -> bytes:
    """Receive until `wanted` comes; the peer it came from."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for peer, frame in router.receive(0.1):
            if decode_to_coordinator(frame) == wanted:
                return peer
    raise AssertionError(f"{wanted} did not come")


def welcome(router: Router) -> bytes:
    peer = expect(router, HELLO)
    router.send(peer, encode(wire.Welcome(id="r")))
    return peer


def test_nothing_but_hello_is_said_until_welcomed(router: Router) -> None:
    inbox = Inbox()
    with connected(router.port, inbox) as link:
        link.send(wire.LeaseFailed(lease=1, attempt=1, reason="early", permanent=False))
        first = [decode_to_coordinator(f) for _, f in router.receive(DEADLINE)]
        again = [decode_to_coordinator(f) for _, f in router.receive(DEADLINE)]
        assert set(map(type, [*first, *again])) == {wire.GeneratorHello}
        welcome(router)
        link.wait_welcome(DEADLINE)
        inbox.wait(wire.Welcome(id="r"))
        expect(router, wire.LeaseFailed(lease=1, attempt=1, reason="early", permanent=False))
        peer = expect(router, HEARTBEAT)
        assert peer == b"g:i"
        router.send(peer, encode(wire.Ack(leases=[1])))
        inbox.wait(wire.Ack(leases=[1]))
        link.check()


def test_who_is_not_known_says_hello_again(router: Router) -> None:
    inbox = Inbox()
    with connected(router.port, inbox):
        peer = welcome(router)
        inbox.wait(wire.Welcome(id="r"))
        router.send(peer, encode(wire.Identify()))
        expect(router, HELLO)
        router.send(peer, encode(wire.Welcome(id="second")))
        inbox.wait(wire.Welcome(id="second"))
        expect(router, HEARTBEAT)


def test_a_coordinator_that_restarts_on_its_port_is_found_again(router: Router) -> None:
    inbox = Inbox()
    port = router.port
    with connected(port, inbox) as link:
        welcome(router)
        link.wait_welcome(DEADLINE)
        router.close()
        group = wire.LeaseFailed(lease=2, attempt=1, reason="while it was away", permanent=False)
        with closing(Router(host="127.0.0.1", port=port)) as again:
            peer = expect(again, HEARTBEAT)
            again.send(peer, encode(wire.Identify()))
            expect(again, HELLO)
            link.send(group)
            again.send(peer, encode(wire.Welcome(id="again")))
            inbox.wait(wire.Welcome(id="again"))
            expect(again, group)
            link.check()


@pytest.mark.skipif(sys.platform != "linux", reason="others answer when a queue is full")
def test_an_attempt_to_connect_that_hangs_is_given_up_for_another() -> None:
    """Nobody answers, as where the network is cut: the queue of who listens is full."""
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port, mine = deaf.getsockname()[1], set()
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            mine.add(filler.getsockname()[1])
        attempts: set[int] = set()

        def is_given_up() -> bool:
            attempts.update(
                connection.laddr.port
                for connection in psutil.net_connections("tcp4")
                if connection.status == psutil.CONN_SYN_SENT
                and connection.raddr.port == port
                and connection.laddr.port not in mine
            )
            return len(attempts) > 1

        sockets.enter_context(connected(port, Inbox()))
        until(is_given_up)


def test_a_refusal_ends_the_link_with_its_reason(router: Router) -> None:
    inbox = Inbox()
    with connected(router.port, inbox) as link:
        peer = expect(router, HELLO)
        router.send(peer, encode(wire.Refused(reason="another tokenizer")))
        with pytest.raises(RefusedError, match="another tokenizer"):
            link.wait_welcome(DEADLINE)
        with pytest.raises(RefusedError, match="another tokenizer"):
            link.check()
        link.send(HEARTBEAT)
        link.beat()
    assert inbox.messages == []
    link.send(HEARTBEAT)
    link.close()


def test_a_link_that_was_given_up_says_so(router: Router) -> None:
    with connected(router.port, Inbox()) as link:
        welcome(router)
        link.wait_welcome(DEADLINE)
        peer = expect(router, HEARTBEAT)
        router.send(peer, encode(wire.Identify()))
        expect(router, HELLO)
        router.send(peer, encode(wire.GivenUp(reason="it was silent")))

        def given_up() -> bool:
            try:
                link.check()
            except GivenUpError:
                return True
            return False

        until(given_up)


def test_silence_is_noticed() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        inbox = Inbox()
        port = nobody.getsockname()[1]
        with connected(port, inbox, lost_seconds=0.05) as link:
            with pytest.raises(LinkLostError, match=r"no coordinator answered.*within 0\.2 s"):
                link.wait_welcome(0.2)
            with pytest.raises(LinkLostError, match="silent for"):
                link.check()
            link.close()
            assert not link._thread.is_alive(), "what can't be sent does not keep it"


def test_silence_after_a_welcome_is_noticed_and_a_word_ends_it(router: Router) -> None:
    inbox = Inbox()
    with connected(router.port, inbox, lost_seconds=0.3) as link:
        peer = welcome(router)
        link.wait_welcome(DEADLINE)

        def lost() -> bool:
            try:
                link.check()
            except LinkLostError:
                return True
            return False

        until(lost)
        router.send(peer, encode(wire.Ack(leases=[5])))
        until(lambda: not lost())


@pytest.mark.parametrize("frame", [b"", b"\xc1noise", b"\x91\xa4Nope"])
def test_a_coordinator_that_talks_nonsense_ends_the_link(router: Router, frame: bytes) -> None:
    with connected(router.port, Inbox()) as link:
        peer = welcome(router)
        link.wait_welcome(DEADLINE)
        router.send(peer, frame)

        def broken() -> bool:
            try:
                link.check()
            except ProtocolError:
                return True
            return False

        until(broken)


def test_an_error_in_the_process_ends_the_link(router: Router) -> None:
    def explode(message: object) -> None:
        raise KeyError("in on_message")

    with connected(router.port, Inbox(), on_message=explode) as link:
        welcome(router)

        def broken() -> bool:
            try:
                link.check()
            except KeyError:
                return True
            return False

        until(broken)


def test_what_is_queued_leaves_before_the_link_closes(router: Router) -> None:
    with connected(router.port, Inbox()) as link:
        welcome(router)
        link.wait_welcome(DEADLINE)
        for lease in range(50):
            link.send(wire.LeaseFailed(lease=lease, attempt=1, reason="x", permanent=False))
        link.send(wire.Bye(reason="done"))
    expect(router, wire.Bye(reason="done"))


def test_links_leave_no_files_open(router: Router) -> None:
    import psutil

    process = psutil.Process()

    def once() -> int:
        with connected(router.port, Inbox()) as link:
            welcome(router)
            link.wait_welcome(DEADLINE)
        return process.num_fds()

    once()
    before = once()
    assert [once() for _ in range(3)][-1] <= before + 2  # the router's end may lag behind


@contextmanager
def raw_dealer(port: int) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        yield dealer
    finally:
        context.destroy(linger=0)


def test_frames_that_are_no_messages_reach_the_caller_as_such(router: Router) -> None:
    with raw_dealer(router.port) as dealer:
        dealer.send(b"\xc1")
        dealer.send_multipart([b"", b"\x91\xa7Observe"])
        dealer.send(encode(wire.Observe()))
        frames: list[bytes] = []
        while len(frames) < 3:
            received = router.receive(DEADLINE)
            assert received
            frames += [frame for _, frame in received]
        assert frames == [b"\xc1", b"", encode(wire.Observe())]
        for frame in frames[:2]:
            with pytest.raises(ProtocolError):
                decode_to_coordinator(frame)


def test_a_frame_over_the_limit_never_arrives_and_does_no_harm(router: Router) -> None:
    with raw_dealer(router.port) as big, raw_dealer(router.port) as small:
        # The reader drops the connection when it learns of the size.
        dropped = big.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        big.send(bytes(MAX_FRAME_BYTES + 1), copy=False)
        assert dropped.poll(int(DEADLINE * 1000))
        small.send(encode(wire.Observe()))
        assert [frame for _, frame in router.receive(DEADLINE)] == [encode(wire.Observe())]
        big.disable_monitor()


def test_a_peer_that_went_is_no_error(router: Router) -> None:
    assert not router.send(b"nobody", encode(wire.Identify()))


@pytest.fixture
def rude(router: Router) -> Iterator["zmq.Socket[bytes]"]:
    """A peer that holds no more than one frame back, and does not read."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDHWM, 1)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.SNDTIMEO, 1000)
        dealer.connect(f"tcp://127.0.0.1:{router.port}")
        dealer.send(encode(HEARTBEAT))
        yield dealer


def test_who_does_not_read_gets_no_more(router: Router, rude: "zmq.Socket[bytes]") -> None:
    """Beyond what the kernel holds, a few MiB, and PEER_FRAMES."""
    peer = expect(router, HEARTBEAT)
    frame = bytes(10_000)
    assert not all(router.send(peer, frame) for _ in range(10_000))


def test_who_floods_has_to_wait(router: Router, rude: "zmq.Socket[bytes]") -> None:
    frame = bytes(10_000)

    def flood() -> None:
        for _ in range(10_000):
            rude.send(frame)

    with pytest.raises(zmq.Again):
        flood()
    assert router.receive(DEADLINE)
    rude.send(frame)


def test_a_start_is_announced_and_leaves_no_thread(router: Router) -> None:
    before = threading.active_count()
    announce(CoordinatorConfig(port=router.port), name="generator-0", doing="loading", keys=None)
    assert threading.active_count() == before
    expect(router, wire.Starting(name="generator-0", doing="loading"))


def test_a_port_in_use_is_named(router: Router) -> None:
    with pytest.raises(BindError, match=rf"coordinator.port {router.port}.*in use"):
        Router(host="127.0.0.1", port=router.port)
    with pytest.raises(BindError, match=r"coordinator.host 203\.0\.113\.1"):
        Router(host="203.0.113.1", port=0)


def test_an_observer_gets_the_newest_status_or_nothing(router: Router) -> None:
    with closing(Observer(f"tcp://127.0.0.1:{router.port}")) as observer:
        assert observer.status(0.01) is None
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(observer.status(DEADLINE)))
        asking.start()
        peers: list[bytes] = []
        while len(peers) < 2:  # an answer to the first question would come too late
            peers += [peer for peer, _ in router.receive(DEADLINE)]
        router.send(peers[0], encode(wire.Status(run=RunStatus(step=1))))
        asking.join(DEADLINE)
        assert answers == [RunStatus(step=1)]
        observer.stop("enough")
        expect(router, wire.Stop(reason="enough"))
