"""Encrypted links over real sockets on loopback: who is let in, who is not, and what they are
told."""

import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq
from zmq.auth import load_certificate

from asyncds.config.operation import CoordinatorConfig
from asyncds.protocol import wire
from asyncds.protocol.codec import decode_to_coordinator, encode
from asyncds.transport.announce import announce
from asyncds.transport.keys import (
    ClientKeys,
    ServerKeys,
    load_client_keys,
    load_server_keys,
    make_keys,
)
from asyncds.transport.link import Link, LinkLostError, RefusedError
from asyncds.transport.observer import Observer
from asyncds.transport.rejections import MAX_ADDRESSES, QUIET_SECONDS, Rejections
from asyncds.transport.router import Router

DEADLINE = 20.0
HELLO = wire.Observe()
"""Any message will do as an introduction."""
HEARTBEAT = wire.Stop(reason="heartbeat")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["alice", "bob"])
    return tmp_path / "keys"


def server(keys: Path) -> ServerKeys:
    return load_server_keys(secret=keys / "server.key_secret", clients=keys / "clients")


def client(keys: Path, name: str = "alice", *, of: Path | None = None) -> ClientKeys:
    """of: whose server's public key it has."""
    return load_client_keys(server=(of or keys) / "server.key", secret=keys / f"{name}.key_secret")


@pytest.fixture
def router(keys: Path) -> Iterator[Router]:
    with closing(Router(host="127.0.0.1", port=0, keys=server(keys))) as router:
        yield router


@contextmanager
def connected(port: int, keys: ClientKeys | None, name: str = "alice") -> Iterator[Link]:
    link = Link(
        CoordinatorConfig(port=port, heartbeat_seconds=0.05, lost_seconds=DEADLINE),
        identity=name,
        hello=lambda: HELLO,
        heartbeat=lambda: HEARTBEAT,
        on_message=lambda message: None,
        keys=keys,
    )
    with closing(link):
        yield link


Said = list[tuple[bytes, Any]]


def serve(router: Router, until: Callable[[], object], said: Said | None = None) -> None:
    """Welcome everybody who says hello until something holds; what else is said goes to `said`."""
    deadline = time.monotonic() + DEADLINE
    said = [] if said is None else said
    while not until():
        assert time.monotonic() < deadline
        for peer, frame in router.receive(0.02):
            message = decode_to_coordinator(frame)
            if message == HELLO:
                router.send(peer, encode(wire.Welcome(id="r")))
            else:
                said.append((peer, message))


def told(router: Router, link: Link) -> str:
    """What ends the link."""
    serve(router, lambda: link._failure)
    with pytest.raises(RefusedError) as caught:
        link.check()
    with pytest.raises(RefusedError):
        link.wait_welcome(DEADLINE)
    return str(caught.value)


def works(router: Router, link: Link, reason: str = "") -> bool:
    """Whether another message of the link arrives."""
    link.check()
    mark = wire.Bye(reason=reason or str(time.monotonic_ns()))
    link.send(mark)
    said: Said = []
    serve(router, lambda: mark in [message for _, message in said], said)
    return True


def test_an_encrypted_round_trip_that_nobody_can_read(router: Router, keys: Path) -> None:
    """Through a proxy that keeps every byte."""
    seen = bytearray()
    with (
        recording(router.port, seen) as port,
        connected(port, client(keys)) as link,
    ):
        assert works(router, link, reason="x" * 3_000_000)
    assert len(seen) > 3_000_000
    assert b"CURVE" in seen
    assert b"xxxxxxxx" not in seen
    assert b"heartbeat" not in seen
    assert router.rejections.counts == {"not_allowed": 0, "handshake": 0, "endless": 0}


@contextmanager
def recording(port: int, seen: bytearray) -> Iterator[int]:
    """A port that passes everything on to `port`, both ways."""
    ends: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                seen.extend(data)
                sink.sendall(data)
        except OSError:
            return  # closed at the end of the test

    def accept() -> None:
        try:
            here, _ = listener.accept()
        except OSError:
            return
        there = socket.create_connection(("127.0.0.1", port), DEADLINE)
        ends.extend((here, there))
        for pair in ((here, there), (there, here)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for end in ends:
            end.close()


def test_a_key_that_is_not_allowed_is_refused_and_told_so(
    router: Router, keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_keys(tmp_path / "stranger", ["eve"])
    eve = client(tmp_path / "stranger", "eve", of=keys)
    with connected(router.port, client(keys)) as good, connected(router.port, eve, "eve") as bad:
        reason = told(router, bad)
        assert f"does not allow the key in {tmp_path}/stranger/eve.key_secret: put its" in reason
        assert works(router, good)
    assert router.rejections.counts == {"not_allowed": 1, "handshake": 0, "endless": 0}
    lines = [r.getMessage() for r in caplog.records if "refused a connection" in r.getMessage()]
    assert lines == [
        f"refused a connection from 127.0.0.1: its public key {eve.public.decode()} is not among "
        "the allowed clients"
    ]


def test_a_plain_client_is_refused_and_told_so(router: Router, keys: Path) -> None:
    with (
        connected(router.port, client(keys)) as good,
        connected(router.port, None, "plain") as bad,
        closing(Observer(f"tcp://127.0.0.1:{router.port}")) as watcher,
    ):
        assert "wants encrypted links: set coordinator.curve" in told(router, bad)
        assert works(router, good)
        serve(router, lambda: router.rejections.counts["handshake"] >= 2)
        # It has no connection any more, which must not keep it waiting.
        serve(router, lambda: not watcher._socket.poll(0, zmq.POLLOUT))
        asking = threading.Thread(target=lambda: watcher.status(0.01), daemon=True)
        asking.start()
        asking.join(DEADLINE)
        assert not asking.is_alive()
    assert router.rejections.counts["not_allowed"] == 0


def test_an_encrypting_client_of_a_plain_coordinator_is_told_so(keys: Path) -> None:
    with (
        closing(Router(host="127.0.0.1", port=0)) as router,
        connected(router.port, None) as good,
        connected(router.port, client(keys), "encrypting") as bad,
    ):
        assert "does not encrypt its links: set coordinator.curve for it" in told(router, bad)
        assert works(router, good)
        serve(router, lambda: router.rejections.counts["handshake"])


def test_who_has_another_servers_key_is_told_which_file_to_look_at(
    router: Router, keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path / "other", ["x"])
    wrong = client(keys, "bob", of=tmp_path / "other")
    file = f"is the public key in {tmp_path}/other/server.key the coordinator's"
    with connected(router.port, client(keys)) as good, connected(router.port, wrong, "b") as bad:
        serve(router, lambda: bad._handshakes.trouble and router.rejections.counts["handshake"])
        with pytest.raises(LinkLostError, match=f"no coordinator answered.*{file}"):
            bad.wait_welcome(0.05)
        bad._settings = bad._settings.model_copy(update={"lost_seconds": 0.0})
        with pytest.raises(LinkLostError, match=f"has been silent.*{file}"):
            bad.check()
        assert works(router, good)
    assert router.rejections.counts["not_allowed"] == 0


def test_trouble_that_passes_is_forgotten(keys: Path) -> None:
    """The port is another's at first, then the coordinator's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(DEADLINE)
        with connected(port, client(keys)) as link:
            listener.accept()[0].close()
            deadline = time.monotonic() + DEADLINE
            while not link._handshakes.trouble:
                assert time.monotonic() < deadline
                listener.accept()[0].close()
            listener.close()
            with closing(Router(host="127.0.0.1", port=port, keys=server(keys))) as router:
                assert works(router, link)
                assert not link._handshakes.trouble


def test_a_key_is_added_while_the_coordinator_runs(
    router: Router, keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path / "new", ["carol"])
    carol = client(tmp_path / "new", "carol", of=keys)
    with connected(router.port, carol) as link:
        told(router, link)
    public = (tmp_path / "new" / "clients" / "carol.key").read_text()
    (keys / "clients" / "carol.key").write_text(public)
    serve(router, lambda: carol.public in allowed(router))
    with connected(router.port, carol) as link:
        assert works(router, link)


def test_a_key_is_revoked_on_a_link_that_is_up(router: Router, keys: Path) -> None:
    with (
        connected(router.port, client(keys), "alice") as alice,
        connected(router.port, client(keys, "bob"), "bob") as bob,
    ):
        assert works(router, alice)
        assert works(router, bob)
        assert router.send(b"bob", encode(wire.Ack(leases=[])))
        (keys / "clients" / "bob.key").unlink()
        serve(router, lambda: client(keys, "bob").public not in allowed(router))
        assert not router.send(b"bob", encode(wire.Ack(leases=[]))), "it is spoken to no more"
        said: Said = []
        serve(router, lambda: bob._failure, said)
        assert b"bob" not in {peer for peer, _ in said}, "it is heard no more"
        with pytest.raises(RefusedError, match="taken off the coordinator's list of allowed"):
            bob.check()
        assert works(router, alice)
    with connected(router.port, client(keys, "bob"), "bob") as again:
        assert "does not allow the key" in told(router, again)


def allowed(router: Router) -> Any:
    return router._allowed


def test_links_to_a_new_directory_are_noticed_and_a_lost_one_changes_nothing(
    keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Kubernetes changes a mounted Secret: one link is set to another directory."""
    caplog.set_level(logging.INFO)
    texts = {n: (keys / "clients" / f"{n}.key").read_text() for n in ("alice", "bob")}
    mount = tmp_path / "mount"
    for name, text in texts.items():
        (mount / f"..{name}").mkdir(parents=True)
        (mount / f"..{name}" / "member.key").write_text(text)
    (mount / "..data").symlink_to("..alice")
    (mount / "member.key").symlink_to("..data/member.key")
    served = load_server_keys(secret=keys / "server.key_secret", clients=mount)
    with closing(Router(host="127.0.0.1", port=0, keys=served)) as router:
        with connected(router.port, client(keys, "bob"), "bob") as link:
            told(router, link)
        (mount / "..new").symlink_to("..bob")
        (mount / "..new").rename(mount / "..data")
        serve(router, lambda: client(keys, "bob").public in allowed(router))
        with connected(router.port, client(keys, "bob"), "bob") as link:
            assert works(router, link)
            mount.rename(tmp_path / "gone")
            serve(router, lambda: "allowed so far stay allowed" in caplog.text)
            assert works(router, link)
        with connected(router.port, client(keys), "alice") as link:
            told(router, link)


def test_a_file_that_is_no_key_lets_nobody_in_and_is_named(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (keys / "clients" / "alice.key").write_text("")
    with (
        closing(Router(host="127.0.0.1", port=0, keys=server(keys))) as router,
        connected(router.port, client(keys)) as bad,
        connected(router.port, client(keys, "bob"), "bob") as good,
    ):
        assert works(router, good)
        told(router, bad)
    assert f"not allowed in: {keys}/clients/alice.key is not a key file" in caplog.text


def test_an_address_is_logged_once_a_minute_and_addresses_do_not_pile_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rejections = Rejections()

    def add(address: str, now: float) -> int:
        caplog.clear()
        rejections.add("handshake", address=address, what="noise", now=now)
        return len(caplog.records)

    assert [add("a", t) for t in (0.0, 1.0, QUIET_SECONDS - 1)] == [1, 0, 0]
    assert [add("a", QUIET_SECONDS), add("b", QUIET_SECONDS)] == [1, 1]
    logged = sum(add(f"host-{i}", QUIET_SECONDS + 1) for i in range(2 * MAX_ADDRESSES))
    assert logged == MAX_ADDRESSES - 2
    assert len(rejections._log_limiter._logged) == MAX_ADDRESSES
    assert add("host-1999", 3 * QUIET_SECONDS) == 1
    assert rejections.counts["handshake"] == 6 + 2 * MAX_ADDRESSES


def test_the_coordinator_process_encrypts_and_counts_and_shows_no_secret(
    keys: Path, tmp_path: Path
) -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, metrics = one.getsockname()[1], two.getsockname()[1]
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(process_config(keys, tmp_path, port, metrics)))
    process = start("coordinator", file)
    address = f"tcp://127.0.0.1:{port}"
    try:
        with (
            closing(Observer(address)) as plain,
            closing(Observer(address, keys=client(keys))) as o,
        ):
            status = o.status(60.0)
            assert status is not None
            assert status.state == "starting"
            assert plain.status(0.01) is None
            page, deadline = "", time.monotonic() + DEADLINE
            counted = 'asyncds_coordinator_rejected_connections_total{reason="handshake"} 0.0'
            while not page or counted in page:
                assert time.monotonic() < deadline
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as r:
                    page = r.read().decode()
            o.stop("enough")
            _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(DEADLINE)
    assert "control plane at" in log
    assert "encrypted" in log
    assert "refused a connection from" in log
    assert 'rejected_connections_total{reason="not_allowed"} 0.0' in page
    shown = page + log + (tmp_path / "runs" / "r" / "config.yaml").read_text()
    for secret_file in keys.glob("*.key_secret"):
        secret = load_certificate(secret_file)[1]
        assert secret
        assert secret.decode() not in shown


@pytest.mark.parametrize("missing", ["server.key_secret", "clients"])
def test_a_coordinator_without_its_keys_says_so_and_ends(
    keys: Path, tmp_path: Path, missing: str
) -> None:
    (keys / missing).rename(keys / "away")
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(process_config(keys, tmp_path, 0, 0)))
    process = start("coordinator", file)
    try:
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(DEADLINE)
    assert process.returncode == 2
    assert "cannot read the" in log
    assert f"{keys / missing}: No such file or directory" in log
    assert "Traceback" not in log


def start(role: str, config: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "asyncds.cli.main", role, str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )


def process_config(keys: Path, tmp_path: Path, port: int, metrics: int) -> dict[str, Any]:
    curve = {
        "server_secret": str(keys / "server.key_secret"),
        "clients": str(keys / "clients"),
        "server_public": str(keys / "server.key"),
        "client_secret": str(keys / "alice.key_secret"),
    }
    return {
        "name": "r",
        "runs_dir": str(tmp_path / "runs"),
        "model": "none",
        "coordinator": {"port": port, "curve": curve},
        "telemetry": {"port": metrics},
    }


def test_a_start_is_announced_with_keys(router: Router, keys: Path) -> None:
    starting = threading.Thread(
        target=announce,
        args=[CoordinatorConfig(port=router.port)],
        kwargs={"name": "generator-0", "doing": "loading", "keys": client(keys)},
    )
    starting.start()
    deadline, frames = time.monotonic() + DEADLINE, list[bytes]()
    while not frames and time.monotonic() < deadline:
        frames = [frame for _, frame in router.receive(0.1)]
    starting.join(DEADLINE)
    assert [decode_to_coordinator(frame) for frame in frames] == [
        wire.Starting(name="generator-0", doing="loading")
    ]
