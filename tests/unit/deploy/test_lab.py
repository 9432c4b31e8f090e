"""The parts of the cluster lab that can be looked at without a cluster: names, and images."""

import io
import json
import runpy
import socket
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT

LAB = ROOT / "tests/cluster/lab"
DNS = runpy.run_path(str(LAB / "dns.py"))
IMAGE = runpy.run_path(str(LAB / "image.py"))


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    head = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1)


def told(answer: bytes) -> tuple[int, list[str]]:
    """Its code, and addresses."""
    id, flags, questions, answers, *_ = struct.unpack(">HHHHHH", answer[:12])
    assert (id, questions) == (7, 1)
    found = [answer[len(answer) - 16 * (i + 1) :][12:16] for i in range(answers)]
    return flags & 0xF, [socket.inet_ntoa(a) for a in reversed(found)]


def service(name: str, address: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "lab"}, "spec": {"clusterIP": address}}


def test_names_of_services_and_of_the_pods_behind_them() -> None:
    endpoints = [
        {
            "metadata": {"name": name, "namespace": "lab"},
            "subsets": [{"addresses": [{"ip": ip, "hostname": f"{name}-0"}]}, {"addresses": None}],
        }
        for name, ip in (("headless", "10.1.0.5"), ("page", "10.1.0.6"))
    ]
    services = [service("headless", "None"), service("page", "10.96.0.9"), service("none", "None")]
    known = DNS["names"](services, [*endpoints, {"metadata": services[2]["metadata"]}])
    assert known == {
        "headless.lab": ["10.1.0.5"],
        "headless-0.headless.lab": ["10.1.0.5"],
        "page.lab": ["10.96.0.9"],
        "page-0.page.lab": ["10.1.0.6"],
    }
    ask = lambda name, kind=1: told(DNS["answer"](question(name, kind), known))  # noqa: E731
    assert ask("page.lab.svc.cluster.local") == (0, ["10.96.0.9"])
    assert ask("HEADLESS-0.headless.lab.svc.cluster.local") == (0, ["10.1.0.5"])
    assert ask("page.lab.svc.cluster.local", 28) == (0, []), "no address of IPv6, but it exists"
    assert ask("page.lab.lab.svc.cluster.local") == (3, [])
    assert ask("huggingface.co") == (3, [])


@given(st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=5))
def test_all_addresses_are_told(addresses: list[str]) -> None:
    answer = DNS["answer"](question("a.lab.svc.cluster.local"), {"a.lab": addresses})
    assert told(answer) == (0, addresses)


@given(st.binary(max_size=40))
def test_what_is_no_question_is_refused(packet: bytes) -> None:
    try:
        DNS["answer"](packet, {})
    except (IndexError, struct.error):
        return
    assert len(packet) >= 17


@pytest.mark.parametrize("program", [None, "pause"])
def test_an_image_is_what_containerd_takes(program: str | None, tmp_path: Path) -> None:
    file = tmp_path / "pause"
    file.write_bytes(b"\x7fELF")
    made = IMAGE["image"]("registry.local/x:1", file if program else None, {"PATH": "/a:/b"})
    with tarfile.open(fileobj=io.BytesIO(made)) as outer:
        read = lambda name: outer.extractfile(name).read()  # type: ignore[union-attr]  # noqa: E731
        (manifest,) = json.loads(read("manifest.json"))
        config = json.loads(read(manifest["Config"]))
        (layer,) = (read(name) for name in manifest["Layers"])
    assert manifest["RepoTags"] == ["registry.local/x:1"]
    assert config["config"]["Env"] == ["PATH=/a:/b"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inner:
        names = {entry.name: entry for entry in inner}
    if program:
        assert config["config"]["Entrypoint"] == ["/pause"]
        assert names.keys() == {"pause"}
        assert names["pause"].mode == 0o755
    else:
        assert names["usr"].isdir()
        assert names["bin"].linkname == "usr/bin"
        assert names["tmp"].mode == 0o1777


def test_the_script_says_what_it_can_do_and_is_no_nonsense() -> None:
    done = subprocess.run(
        [LAB / "lab.sh"], capture_output=True, text=True, timeout=30, check=False
    )  # fmt: skip
    assert done.returncode == 2
    for command in ("fetch", "build", "built", "up", "exec", "cut", "mend", "down"):
        assert f"lab.sh {command}" in done.stdout
    subprocess.run(["bash", "-n", LAB / "lab.sh"], check=True, timeout=30)
