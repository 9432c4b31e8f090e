"""Keys of encrypted links: CURVE key pairs in files of ZeroMQ's certificate format.

Messages and representations name files, never what is in them.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

PUBLIC, SECRET = ".key", ".key_secret"
"""Suffixes of key files. A file with a secret key holds the public key too."""
SERVER, CLIENTS = "server", "clients"
"""Names under the directory that `make_keys` fills."""


class KeyFileError(Exception):
    """A key file can't be used or made; the message says which, why, and how to mend it."""


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Keys of the coordinator. clients: directory of the public keys that are let in."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path

    def apply(self, socket: "zmq.Socket[Any]") -> None:
        """Have a socket that is not bound yet accept encrypted links only."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


@dataclass(frozen=True, kw_only=True)
class ClientKeys:
    """Keys of everyone else. *_file: where the keys came from, for messages."""

    server: bytes
    server_file: Path
    public: bytes
    secret: bytes = field(repr=False)
    secret_file: Path

    def apply(self, socket: "zmq.Socket[Any]") -> None:
        """Have a socket that is not connected yet make encrypted links only."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


def load_server_keys(*, secret: Path, clients: Path) -> ServerKeys:
    """The coordinator's keys. Raises KeyFileError."""
    public, private = _read_secret(secret)
    read_clients(clients)
    return ServerKeys(public=public, secret=private, clients=clients)


def load_client_keys(*, server: Path, secret: Path) -> ClientKeys:
    """A generator's, learner's or observer's keys. Raises KeyFileError."""
    known = read_public(server)
    public, private = _read_secret(secret)
    return ClientKeys(
        server=known, server_file=server, public=public, secret=private, secret_file=secret
    )


def read_clients(directory: Path) -> tuple[dict[bytes, str], list[str]]:
    """Read the public keys in `*.key` of a directory, each with its file's stem.

    Also returns what is wrong with files that hold none. Raises KeyFileError if the directory can't
    be read.
    """
    keys: dict[bytes, str] = {}
    problems: list[str] = []
    for path in _listed(directory):
        try:
            keys[read_public(path)] = path.stem
        except KeyFileError as error:
            problems.append(str(error))
    return keys, problems


def clients_stamp(directory: Path) -> list[tuple[str, int, int, int]]:
    """A stamp that differs when `read_clients` may find something else. Raises KeyFileError."""
    stamp = []
    for path in _listed(directory):
        try:
            s = path.stat()
        except OSError:
            stamp.append((path.name, 0, 0, 0))
        else:
            stamp.append((path.name, s.st_ino, s.st_mtime_ns, s.st_size))
    return stamp


def read_public(path: Path) -> bytes:
    """The public key in a file. Raises KeyFileError, also if the file holds a secret key."""
    public, secret = _read(path)
    if secret is not None:
        raise KeyFileError(
            f"{path} holds a secret key where a public one belongs: give the file that ends in "
            f"{PUBLIC}"
        )
    return public


def make_keys(out: Path, names: Sequence[str]) -> list[Path]:
    """Make a key pair for each client, and the server's if `out` has none; the files written.

    Layout: `server.key_secret`, `server.key`, `NAME.key_secret` and `clients/NAME.key`, where
    `clients` is the directory of those that are let in. Secret files have mode 0600, public ones
    0644. Raises KeyFileError before anything is written if a name is not usable or taken.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == SERVER:
            raise KeyFileError(
                f"{name!r} can't be a client's name: use letters, digits, '.', '_' and '-', and "
                f"not {SERVER!r}"
            )
    if len(set(names)) < len(names):
        raise KeyFileError("a client is named twice: give every client a name of its own")
    pairs = [(out / f"{n}{SECRET}", out / CLIENTS / f"{n}{PUBLIC}") for n in names]
    server = (out / f"{SERVER}{SECRET}", out / f"{SERVER}{PUBLIC}")
    if not all(path.exists() for path in server):
        pairs.insert(0, server)
    for path in (path for pair in pairs for path in pair):
        if os.path.lexists(path):
            raise KeyFileError(
                f"{path} exists and is not overwritten: choose another name or directory"
            )
    try:
        (out / CLIENTS).mkdir(parents=True, exist_ok=True)
        for secret_file, public_file in pairs:
            public, secret = (key.decode() for key in zmq.curve_keypair())
            lines = ["curve", f'    public-key = "{public}"']
            _write(secret_file, 0o600, [*lines, f'    secret-key = "{secret}"'])
            _write(public_file, 0o644, lines)
    except OSError as error:
        raise KeyFileError(f"cannot write {error.filename}: {error.strerror}") from error
    return [path for pair in pairs for path in pair]


def _write(path: Path, mode: int, lines: list[str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write("\n".join(["metadata", *lines, ""]))


def _listed(directory: Path) -> list[Path]:
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise KeyFileError(
            f"cannot read the directory of allowed clients {directory}: {error.strerror}"
        ) from error
    return [directory / n for n in sorted(names) if n.endswith(PUBLIC) and not n.startswith(".")]


def _read_secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _read(path)
    if secret is None:
        raise KeyFileError(f"{path} holds no secret key: give the file that ends in {SECRET}")
    if zmq.curve_public(secret) != public:
        raise KeyFileError(f"the two keys in {path} are not a pair: make new ones")
    if path.stat().st_mode & stat.S_IROTH:
        raise KeyFileError(
            f"everyone on this machine can read the secret key in {path}: `chmod 600 {path}`, or "
            "set defaultMode 0400 where it is mounted from a Kubernetes Secret"
        )
    return public, secret


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        with path.open("rb"):
            public, secret = load_certificate(path)
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    except ValueError:
        public, secret = b"", None
    if not _is_key(public) or (secret is not None and not _is_key(secret)):
        # Not `from` the error of the decoder, which quotes what it was given.
        raise KeyFileError(f"{path} is not a key file: `asyncds keys` makes them")
    return public, secret


def _is_key(text: bytes) -> bool:
    if len(text) != 40:
        return False
    try:
        z85.decode(text)
    except (KeyError, ValueError):
        return False
    return True
