"""Key files: made, read, refused; and that what is secret is shown nowhere."""

import os
import stat
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner
from zmq.auth import load_certificate

from asyncds.cli.main import app
from asyncds.config.load import ConfigError, dump_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.launch.preflight import preflight
from asyncds.transport.keys import (
    KeyFileError,
    load_client_keys,
    load_server_keys,
    make_keys,
    read_clients,
    read_public,
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["alice"])
    return tmp_path / "keys"


def secrets(keys: Path) -> list[str]:
    found = [load_certificate(path)[1] for path in keys.glob("*.key_secret")]
    assert all(found)
    return [secret.decode() for secret in found if secret]


def curve(keys: Path) -> dict[str, str]:
    return {
        "server_secret": str(keys / "server.key_secret"),
        "clients": str(keys / "clients"),
        "server_public": str(keys / "server.key"),
        "client_secret": str(keys / "alice.key_secret"),
    }


def config(keys: Path, tmp_path: Path, **changes: str) -> RunConfig:
    return parse_config(
        {
            "name": "r",
            "runs_dir": str(tmp_path / "runs"),
            "model": "none",
            "coordinator": {"host": "0.0.0.0", "curve": curve(keys) | changes},
        }
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_command_makes_pairs_that_fit_and_adds_clients_to_them(tmp_path: Path) -> None:
    out = tmp_path / "new" / "keys"
    old = os.umask(0o077)
    try:
        done = CliRunner().invoke(app, ["keys", str(out), "--name", "alice", "--name", "bob"])
    finally:
        os.umask(old)
    assert done.exit_code == 0, done.output
    written = {out / line.removeprefix(f"{out}/") for line in done.output.splitlines()}
    assert written == {p for p in out.rglob("*") if p.is_file()}
    for path in written:
        assert mode(path) == (0o600 if path.suffix == ".key_secret" else 0o644), path
    server = load_server_keys(secret=out / "server.key_secret", clients=out / "clients")
    client = load_client_keys(server=out / "server.key", secret=out / "alice.key_secret")
    assert zmq.curve_public(server.secret) == server.public == client.server
    assert zmq.curve_public(client.secret) == client.public
    assert read_clients(server.clients)[0][client.public] == "alice"

    assert CliRunner().invoke(app, ["keys", str(out), "--name", "carol"]).exit_code == 0
    assert set(read_clients(out / "clients")[0].values()) == {"alice", "bob", "carol"}
    assert read_public(out / "server.key") == server.public, "the server's pair is kept"
    assert not any(secret in done.output for secret in secrets(out))


@pytest.mark.parametrize("kept", ["alice.key_secret", "clients/alice.key", "server.key"])
def test_nothing_is_overwritten_and_nothing_written_besides(keys: Path, kept: str) -> None:
    before = (keys / kept).read_text()
    for path in [p for p in keys.rglob("*") if p.is_file()]:
        if path != keys / kept:
            path.unlink()
    with pytest.raises(KeyFileError, match=rf"{kept} exists and is not overwritten"):
        make_keys(keys, ["bob", "alice"])
    assert [p for p in keys.rglob("*") if p.is_file()] == [keys / kept]
    assert (keys / kept).read_text() == before


@pytest.mark.parametrize("name", ["server", "../up", "", ".hidden", "a b", "a/b"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="can't be a client's name"):
        make_keys(tmp_path, [name])
    with pytest.raises(KeyFileError, match="named twice"):
        make_keys(tmp_path, ["a", "a"])
    assert not list(tmp_path.iterdir())


def test_a_mounted_secret_is_read_through_its_links(keys: Path, tmp_path: Path) -> None:
    """The layout of a volume that Kubernetes mounts: links to links, in a directory without
    write permission."""
    mount, data = tmp_path / "mount", tmp_path / "mount" / "..2026_01"
    data.mkdir(parents=True)
    (mount / "..data").symlink_to("..2026_01")
    (data / "alice.key").write_text((keys / "clients" / "alice.key").read_text())
    (data / "alice.key_secret").write_text((keys / "alice.key_secret").read_text())
    (data / "alice.key_secret").chmod(0o440)
    for name in ("alice.key", "alice.key_secret"):
        (mount / name).symlink_to(f"..data/{name}")
    for directory in (data, mount):
        directory.chmod(0o555)
    try:
        client = load_client_keys(server=keys / "server.key", secret=mount / "alice.key_secret")
        assert read_clients(mount) == ({client.public: "alice"}, [])
        load_server_keys(secret=keys / "server.key_secret", clients=mount)
    finally:
        for directory in (mount, data):
            directory.chmod(0o755)


def damage_text(path: Path) -> None:
    path.write_text("hello\n")


def damage_cut(path: Path) -> None:
    text = path.read_text()
    path.write_text(text[: text.index("secret-key") + 30] + '"\n')


def damage_letter(path: Path) -> None:
    """A letter that Z85 has not, in the secret key."""
    text = path.read_text()
    at = text.index("secret-key") + len('secret-key = "') + 3
    path.write_text(text[:at] + "~" + text[at + 1 :])


def damage_pair(path: Path) -> None:
    public, other = zmq.curve_keypair()[0].decode(), path.read_text()
    start = other.index("public-key") + len('public-key = "')
    path.write_text(other[:start] + public + other[start + 40 :])


def damage_binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_text, "is not a key file"),
        (damage_cut, "is not a key file"),
        (damage_letter, "is not a key file"),
        (damage_binary, "is not a key file"),
        (damage_pair, "are not a pair"),
        (lambda p: p.chmod(0o644), "everyone on this machine can read"),
        (lambda p: p.unlink(), "cannot read the key file .*: No such file"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot read the key file .*: Is a directory"),
        (lambda p: (p.unlink(), p.symlink_to("gone")), "cannot read the key file"),
    ],
)
@pytest.mark.parametrize("whose", ["server", "alice"])
def test_a_secret_file_that_does_not_serve_is_named_without_what_is_in_it(
    keys: Path, tmp_path: Path, whose: str, damage: object, says: str
) -> None:
    file, hidden = keys / f"{whose}.key_secret", secrets(keys)
    damage(file)  # type: ignore[operator]
    load = {
        "server": lambda: load_server_keys(secret=file, clients=keys / "clients"),
        "alice": lambda: load_client_keys(server=keys / "server.key", secret=file),
    }[whose]
    with pytest.raises(KeyFileError, match=says) as caught:
        load()
    problems = [p for p in preflight(config(keys, tmp_path)) if p.startswith("coordinator.curve")]
    assert problems == [f"coordinator.curve: {caught.value}"]
    assert str(file) in problems[0]
    error: BaseException | None = caught.value
    while error is not None:
        assert not any(secret[:8] in f"{error!r} {error}" for secret in hidden)
        error = error.__cause__


def test_public_and_secret_are_not_confused(keys: Path) -> None:
    with pytest.raises(KeyFileError, match=r"holds a secret key where a public one belongs"):
        load_client_keys(server=keys / "server.key_secret", secret=keys / "alice.key_secret")
    with pytest.raises(KeyFileError, match=r"server\.key holds no secret key"):
        load_server_keys(secret=keys / "server.key", clients=keys / "clients")
    with pytest.raises(KeyFileError, match="cannot read the directory of allowed clients"):
        load_server_keys(secret=keys / "server.key_secret", clients=keys / "none")


def test_preflight_tells_keys_that_do_not_fit_together(keys: Path, tmp_path: Path) -> None:
    def problems(**changes: str) -> list[str]:
        found = preflight(config(keys, tmp_path, **changes))
        return [p for p in found if p.startswith("coordinator.curve")]

    assert problems() == []
    make_keys(tmp_path / "other", ["bob"])
    assert [*problems(server_public=str(tmp_path / "other" / "server.key"))] == [
        f"coordinator.curve.server_public {tmp_path}/other/server.key is not the public key of "
        f"server_secret {keys}/server.key_secret: give the files of one pair"
    ]
    assert problems(client_secret=str(tmp_path / "other" / "bob.key_secret")) == [
        f"coordinator.curve.clients {keys}/clients lacks the public key of client_secret "
        f"{tmp_path}/other/bob.key_secret: put it there"
    ]
    (keys / "clients" / "noise.key").write_text("noise")
    assert problems() == [
        f"coordinator.curve.clients: {keys}/clients/noise.key is not a key file: `asyncds keys` "
        "makes them"
    ]


def test_an_address_for_all_needs_keys_or_consent(keys: Path, tmp_path: Path) -> None:
    values = {"name": "r", "model": "none"}
    with pytest.raises(ConfigError, match=r"will not bind 0\.0\.0\.0: set coordinator\.curve"):
        parse_config(values | {"coordinator": {"host": "0.0.0.0"}})
    parse_config(values | {"coordinator": {"host": "0.0.0.0", "allow_unencrypted": True}})
    parse_config(values | {"coordinator": {"host": "0.0.0.0", "curve": curve(keys)}})
    with pytest.raises(ConfigError, match=r"coordinator\.curve\.clients is missing"):
        parse_config(values | {"coordinator": {"curve": {"server_secret": "x"}}})


def test_secrets_are_shown_nowhere(keys: Path, tmp_path: Path) -> None:
    server = load_server_keys(secret=keys / "server.key_secret", clients=keys / "clients")
    client = load_client_keys(server=keys / "server.key", secret=keys / "alice.key_secret")
    shown = f"{server!r} {server} {client!r} {client} {dump_config(config(keys, tmp_path))}"
    assert str(keys / "alice.key_secret") in shown
    hidden = secrets(keys)
    assert len(hidden) == 2
    assert not any(secret in shown for secret in hidden)
