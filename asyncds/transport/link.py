"""A process's end of the control plane: a ZeroMQ DEALER in a thread of its own.

The thread introduces the process until it is welcomed, sends heartbeats whatever the process is
busy with, and hands on what the coordinator says. After the coordinator's restart or a cut it
reconnects and introduces itself again by itself.
"""

import logging
import threading
import time
from collections.abc import Callable

import zmq

from asyncds.config.operation import CoordinatorConfig
from asyncds.protocol.codec import MAX_FRAME_BYTES, decode_from_coordinator, encode
from asyncds.protocol.wire import FromCoordinator, GivenUp, Identify, Message, Refused, Welcome
from asyncds.transport.handshakes import HANDSHAKES, Handshakes
from asyncds.transport.keys import ClientKeys
from asyncds.transport.monitor import monitored, read_events
from asyncds.transport.outbox import Outbox

log = logging.getLogger(__name__)

HELLO_SECONDS = 1.0
"""How often an introduction is repeated until it is answered."""
CONNECT_MS = 3000
"""How long one attempt to connect may take. The system's own repetitions of an attempt become ever
rarer, so that a network that was cut for minutes would be found whole only minutes later."""


class RefusedError(Exception):
    """The coordinator will not have this process; the message is its reason."""


class GivenUpError(Exception):
    """The coordinator took this incarnation for dead; the process may join again as another."""


class LinkLostError(Exception):
    """The coordinator has not been heard from for too long."""


class Link:
    """A link to the coordinator.

    `on_message` runs in the link's thread and must not block; it also gets every `Welcome`, the
    moment to repeat what is unacknowledged.
    """

    def __init__(
        self,
        settings: CoordinatorConfig,
        *,
        identity: str,
        hello: Callable[[], Message],
        heartbeat: Callable[[], Message] | None,
        on_message: Callable[[FromCoordinator], None],
        keys: ClientKeys | None,
    ) -> None:
        """Start the link's thread.

        hello, heartbeat: make the message of the moment. keys: of an encrypted link; None if the
        coordinator's links are not encrypted.
        """
        self._settings = settings
        self._identity = identity
        self._hello = hello
        self._heartbeat = heartbeat
        self._on_message = on_message
        self._handshakes = Handshakes(self.address, keys=keys)
        self._outbox = Outbox()
        self._welcomed = threading.Event()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The coordinator's."""
        return f"tcp://{self._settings.host}:{self._settings.port}"

    def send(self, message: Message) -> None:
        """Queue a message; from any thread."""
        self._outbox.put(encode(message))

    def beat(self) -> None:
        """Send a heartbeat now, because what it says has changed."""
        if self._heartbeat is not None:
            self.send(self._heartbeat())

    def wait_welcome(self, timeout: float) -> None:
        """Block until the coordinator accepted the introduction.

        Raises RefusedError, GivenUpError, or LinkLostError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._welcomed.wait(0.1):
            self._raise_failure()
            if time.monotonic() > deadline:
                raise LinkLostError(
                    f"no coordinator answered at {self.address} within {timeout:g} s: "
                    + (self._handshakes.trouble or "is it running, and is the address right?")
                )

    def check(self) -> None:
        """Raise what ended the link, or LinkLostError if the coordinator is silent too long."""
        self._raise_failure()
        silent = time.monotonic() - self._heard
        if silent > self._settings.lost_seconds:
            raise LinkLostError(
                f"the coordinator at {self.address} has been silent for {silent:.0f} s"
                + (f": {self._handshakes.trouble}" if self._handshakes.trouble else "")
            )

    def close(self, timeout: float = 5.0) -> None:
        """Send what is queued, then close; `send` does nothing from then on."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._outbox.wake()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the link's thread did not end within %g s", timeout)
            return
        self._outbox.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        context = zmq.Context()
        try:
            self._talk(context)
        except BaseException as error:
            log.exception("the link to the coordinator broke")
            self._failure = error
        finally:
            context.term()

    def _talk(self, context: zmq.Context) -> None:
        with (
            context.socket(zmq.DEALER) as socket,
            monitored(context, socket, HANDSHAKES) as handshakes,
        ):
            self._serve(socket, handshakes)

    def _serve(self, socket: zmq.Socket[bytes], handshakes: zmq.Socket[bytes]) -> None:
        # What is queued gets this long at the end; the default, for ever, would block `close`.
        socket.setsockopt(zmq.LINGER, 2000)
        socket.setsockopt(zmq.IDENTITY, self._identity.encode())
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
        if (keys := self._handshakes.keys) is not None:
            keys.apply(socket)
        socket.connect(self.address)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._outbox.readable, zmq.POLLIN)
        poller.register(handshakes, zmq.POLLIN)
        pause = min(HELLO_SECONDS, self._settings.heartbeat_seconds)
        next_hello = next_heartbeat = 0.0
        sent = True
        while not (self._closing.is_set() and not self._outbox):
            now = time.monotonic()
            if not self._welcomed.is_set():
                if now >= next_hello:
                    _send(socket, encode(self._hello()))
                    next_hello = now + HELLO_SECONDS
            else:
                if self._heartbeat is not None and now >= next_heartbeat:
                    _send(socket, encode(self._heartbeat()))
                    next_heartbeat = now + self._settings.heartbeat_seconds
                while self._outbox and (sent := _send(socket, self._outbox.first)):
                    self._outbox.drop_first()
            if self._closing.is_set() and not (self._welcomed.is_set() and sent):
                break
            ready = dict(poller.poll(int(pause * 1000)))
            if self._outbox.readable in ready:
                self._outbox.awake()
            if handshakes in ready:
                for event, value in read_events(handshakes):
                    if reason := self._handshakes.refusal(event, value):
                        self._failure = RefusedError(reason)
            if socket in ready:
                self._receive_all(socket)
            if self._failure is not None:
                return

    def _receive_all(self, socket: zmq.Socket[bytes]) -> None:
        while self._failure is None:
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard = time.monotonic()
            self._receive(decode_from_coordinator(frame))

    def _receive(self, message: FromCoordinator) -> None:
        match message:
            case Welcome():
                self._welcomed.set()
                self._on_message(message)
            case Identify():
                self._welcomed.clear()
            case Refused(reason=reason):
                self._failure = RefusedError(reason)
            case GivenUp(reason=reason):
                self._failure = GivenUpError(reason)
            case _:
                self._on_message(message)


def _send(socket: zmq.Socket[bytes], frame: bytes) -> bool:
    """False if there is no connection, not even one in the making: a handshake was refused."""
    try:
        socket.send(frame, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
