"""Machines made of network namespaces: one for each role, with a veth pair to a bridge in another.

A machine's cable can be pulled, or replaced by a bad one (bad_cable.py). They know each other's
Ethernet addresses without asking, so that of a cut nothing is seen but silence, as on the far side
of a router. Nothing of it is seen from outside: the namespaces have no way to the network of the
machine they are on.
"""

import ctypes
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

NETWORK = "198.18.7"
"""Of the addresses that RFC 2544 sets apart for tests."""
BAD_CABLE = Path(__file__).with_name("bad_cable.py")
ENDS = ("near", "far")
"""Of the bad cable."""
READY_SECONDS = 60.0
CLONE_NEWNET = 0x40000000


class NoNamespacesError(Exception):
    """This machine can't have them; the message says why."""


class CommandError(Exception):
    """A command failed; the message says which, and how."""


class Machines:
    """names: of the machines, which get addresses in this order, from NETWORK.1."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{NETWORK}.{i}" for i, name in enumerate(names, start=1)}
        self._prefix = f"asyncds-{os.getpid()}"
        self._made = ExitStack()

    def __enter__(self) -> Self:
        """Raises NoNamespacesError."""
        if reason := _impossible():
            raise NoNamespacesError(reason)
        with ExitStack() as stack:
            stack.enter_context(self._made)
            self._make()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def _make(self) -> None:
        try:
            self._namespace("hub")
            for bridge in ("switch", "aside"):
                self._ip("hub", "link", "add", "name", bridge, "type", "bridge")
            self._ip("hub", "link", "add", "name", "trial", "type", "veth")
        except CommandError as error:
            raise NoNamespacesError(str(error)) from error
        for bridge in ("switch", "aside"):
            self._ip("hub", "link", "set", "dev", bridge, "up")
        for name, address in self.addresses.items():
            self._namespace(name)
            peer = ("peer", "name", "eth0", "address", _ethernet(address))
            peer += ("netns", self.namespace(name))
            self._ip("hub", "link", "add", "name", name, "type", "veth", *peer)
            self._ip("hub", "link", "set", "dev", name, "master", "switch", "up")
            self._ip(name, "address", "add", f"{address}/24", "dev", "eth0")
            self._ip(name, "link", "set", "dev", "eth0", "up")
            self._ip(name, "link", "set", "dev", "lo", "up")
            for other in set(self.addresses.values()) - {address}:
                known = (other, "lladdr", _ethernet(other), "nud", "permanent")
                self._ip(name, "neighbour", "add", *known, "dev", "eth0")

    def _namespace(self, name: str) -> None:
        _run("ip", "netns", "add", self.namespace(name))
        self._made.callback(_run, "ip", "netns", "delete", self.namespace(name))

    def namespace(self, name: str) -> str:
        """What `ip netns` calls a machine."""
        return f"{self._prefix}-{name}"

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """A command line that runs `command` on a machine, in the process that it starts."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes while the block runs are the machine's, and so are the
        threads it starts."""
        with (
            open("/proc/thread-self/ns/net") as back,
            open(f"/run/netns/{self.namespace(name)}") as there,
        ):
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(back.fileno())

    # --- cables ---------------------------------------------------------------------------------

    def pull(self, name: str) -> None:
        """Pull a machine's cable: its end of the link is down, with all that was on the way."""
        self._ip("hub", "link", "set", "dev", name, "down")

    def replug(self, name: str) -> None:
        """Plug it in again."""
        self._ip("hub", "link", "set", "dev", name, "up")

    @contextmanager
    def bad_cable(self, *, delay: float, loss: float, seed: int = 0) -> Iterator[None]:
        """Have one at hand while the block runs: each frame comes `delay` seconds late, in both
        directions, and is lost with the probability `loss`."""
        arguments = (*ENDS, f"--delay={delay}", f"--loss={loss}", f"--seed={seed}")
        command = self.command("hub", [sys.executable, str(BAD_CABLE), *arguments])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cable:
            try:
                assert cable.stdout is not None
                ready = select.select([cable.stdout], [], [], READY_SECONDS)[0]
                assert ready, "the cable is not ready"
                assert cable.stdout.readline() == "ready\n"
                for end, bridge in zip(ENDS, ("aside", "switch"), strict=True):
                    self._ip("hub", "link", "set", "dev", end, "master", bridge, "up")
                yield
            finally:
                cable.terminate()

    def spoil(self, name: str) -> None:
        """Connect a machine by the bad cable that is at hand."""
        self._ip("hub", "link", "set", "dev", name, "master", "aside")

    def mend(self, name: str) -> None:
        """Connect it by its own again."""
        self._ip("hub", "link", "set", "dev", name, "master", "switch")

    def _ip(self, name: str, *arguments: str) -> None:
        _run("ip", "-n", self.namespace(name), *arguments)


def _impossible() -> str:
    """Why there can't be any, or ""."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "the command ip (iproute2) is not installed"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"there is no TUN device to be had: {error}"
    return ""


def _ethernet(address: str) -> str:
    return f"02:00:00:00:00:{int(address.rsplit('.', 1)[1]):02x}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip()}")


def _enter(namespace: int) -> None:
    # os.setns came with Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
