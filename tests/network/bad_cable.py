"""A cable that delays frames and loses some: it forwards between two TAP devices, which it makes.

`python bad_cable.py NEAR FAR --delay SECONDS --loss SHARE [--seed N]` says "ready" when there are
devices of these names, and ends with SIGTERM. For kernels without netem; on TAP devices, whose
frames the kernel has cut to size and summed, so that what is lost is what a wire would lose.
"""

import argparse
import fcntl
import os
import random
import select
import struct
import time
from collections import deque

FRAME_BYTES = 65536
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Way:
    """One direction. Seconds come from outside."""

    def __init__(self, *, delay: float, loss: float, rng: random.Random) -> None:
        self._delay, self._loss, self._rng = delay, loss, rng
        self._under_way: deque[tuple[float, bytes]] = deque()

    def put(self, frame: bytes, now: float) -> None:
        """A frame goes in."""
        if self._rng.random() >= self._loss:
            self._under_way.append((now + self._delay, frame))

    def take(self, now: float) -> list[bytes]:
        """The frames that have come out, in order."""
        out = []
        while self._under_way and self._under_way[0][0] <= now:
            out.append(self._under_way.popleft()[1])
        return out

    def next(self) -> float | None:
        """When the next one comes out, None if there is none."""
        return self._under_way[0][0] if self._under_way else None


def open_tap(name: str) -> int:
    """A file descriptor of a new TAP device in this process's network namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def forward(taps: tuple[int, int], ways: tuple[Way, Way]) -> None:
    """Until killed. The first way leads from the first device to the second."""
    while True:
        due = [at for way in ways if (at := way.next()) is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(taps, [], [], wait)
        for tap in readable:
            way = ways[taps.index(tap)]
            while frame := _read(tap):
                way.put(frame, time.monotonic())
        for way, out in zip(ways, reversed(taps), strict=True):
            for frame in way.take(time.monotonic()):
                _write(out, frame)


def _read(tap: int) -> bytes:
    """b"" if there is nothing to read, or the device is down."""
    try:
        return os.read(tap, FRAME_BYTES)
    except OSError:
        return b""


def _write(tap: int, frame: bytes) -> None:
    """A full or disconnected device loses frames, as a wire does."""
    try:
        os.write(tap, frame)
    except OSError:
        return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs=2)
    parser.add_argument("--delay", type=float, required=True)
    parser.add_argument("--loss", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    near, far = (open_tap(name) for name in given.names)
    rng = random.Random(given.seed)
    there, back = (Way(delay=given.delay, loss=given.loss, rng=rng) for _ in range(2))
    print("ready", flush=True)
    forward((near, far), (there, back))


if __name__ == "__main__":
    main()
