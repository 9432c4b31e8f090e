"""Names of a cluster for its pods, over UDP: dns.py ADDRESS KUBECONFIG

Answers A questions for SERVICE.NAMESPACE.svc.cluster.local (the service's address, or those of its
endpoints if it is headless) and HOSTNAME.SERVICE.NAMESPACE.svc.cluster.local, from the API, which
is asked once a second. Other names do not exist.
"""

import json
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOMAIN = ".svc.cluster.local"
SECONDS = 1.0
TYPE_A, NO_ERROR, NO_NAME = 1, 0, 3


def names(services: Sequence[Any], endpoints: Sequence[Any]) -> dict[str, list[str]]:
    """Addresses by name, without the domain. services, endpoints: as the API lists them."""
    found: dict[str, list[str]] = {}
    for item in endpoints:
        service = f"{item['metadata']['name']}.{item['metadata']['namespace']}"
        for address in (a for s in item.get("subsets") or [] for a in s.get("addresses") or []):
            found.setdefault(service, []).append(address["ip"])
            if hostname := address.get("hostname"):
                found[f"{hostname}.{service}"] = [address["ip"]]
    for item in services:
        if (address := item["spec"].get("clusterIP")) not in (None, "", "None"):
            found[f"{item['metadata']['name']}.{item['metadata']['namespace']}"] = [address]
    return found


def answer(question: bytes, known: Mapping[str, Sequence[str]]) -> bytes:
    """The answer to a packet with one question. Raises IndexError, struct.error if it is none."""
    labels, at = [], 12
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += length + 1
    (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
    name = ".".join(labels)
    addresses = known.get(name.removesuffix(DOMAIN)) if name.endswith(DOMAIN) else None
    told = list(addresses or []) if kind == TYPE_A else []
    flags = 0x8580 | (NO_ERROR if addresses else NO_NAME)
    head = question[:2] + struct.pack(">HHHHH", flags, 1, len(told), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", TYPE_A, 1, 1, 4) + socket.inet_aton(a) for a in told
    )
    return head + question[12 : at + 5] + records


def keep_up(api: str, token: str, known: dict[str, list[str]]) -> None:
    context = ssl._create_unverified_context()

    def items(kind: str) -> Sequence[Any]:
        request = urllib.request.Request(
            f"{api}/api/v1/{kind}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=5, context=context) as reply:
            listed: Sequence[Any] = json.load(reply)["items"]
        return listed

    while True:
        try:
            new = names(items("services"), items("endpoints"))
            known.update(new)
            for gone in known.keys() - new.keys():
                del known[gone]
        except OSError as error:
            print(error, flush=True)
        time.sleep(SECONDS)


def main(address: str, kubeconfig: str) -> None:
    config = json.loads(Path(kubeconfig).read_text())
    api = config["clusters"][0]["cluster"]["server"]
    known: dict[str, list[str]] = {}
    token = config["users"][0]["user"]["token"]
    threading.Thread(target=keep_up, args=(api, token, known), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            question, client = server.recvfrom(4096)
            try:
                server.sendto(answer(question, known), client)
            except (IndexError, struct.error):
                print(f"no question from {client}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
