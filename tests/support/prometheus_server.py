"""The rules, dashboards and configuration that are shipped, and a real Prometheus for tests."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
DEADLINE_SECONDS = 60.0
SELECTOR = re.compile(r"\basyncds[\w:]+(?:\{[^}]*\})?")
DURATION = re.compile(r"\b(\d+)([smhd])\b")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def tool(name: str) -> str:
    """Its path; skips the test where it is missing."""
    path = os.pathsep.join((str(ROOT / ".tools/bin"), os.environ["PATH"]))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is missing: deploy/install/tools.sh fetches it, or says why it can't")
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    """Those with this key: `alert` or `record`."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


ALERTS = {rule["alert"]: rule for rule in rules("alert")}
RECORDED = {rule["record"]: rule for rule in rules("record")}


def panels() -> list[dict[str, Any]]:
    """Of all dashboards, without rows."""
    pages = [json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))]
    return [p for page in pages for p in page["panels"] if p["type"] != "row"]


def targets(interval: str = "1m") -> list[tuple[str, str]]:
    """(query, legend) of every panel, with Grafana's variables filled in."""
    return [
        (
            t["expr"]
            .replace("$namespace", ".*")
            .replace("$run", ".*")
            .replace("$__rate_interval", interval),
            t["legendFormat"],
        )
        for p in panels()
        for t in p["targets"]
    ]


def named(legend: str, labels: Mapping[str, str]) -> str:
    """A legend with its labels filled in."""
    return re.sub(r"{{(\w+)}}", lambda match: labels[match[1]], legend)


def faster(text: str, factor: int) -> str:
    """The text of rules with every duration divided by a factor, to a second at least."""

    def shorter(match: re.Match[str]) -> str:
        return f"{max(1, int(match[1]) * SECONDS[match[2]] // factor)}s"

    return DURATION.sub(shorter, text)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, page: str, **parameters: str) -> Any:
        """The data of an answer. Raises URLError, or HTTPError where it refuses."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{page}?{query}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def series(self, query: str) -> list[dict[str, Any]]:
        """Raises HTTPError where the query is none."""
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Their states."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Alerts that fire now."""
        return {
            r["name"] for r in self.rules() if r["type"] == "alerting" and r["state"] == "firing"
        }


@contextmanager
def scraping(
    folder: Path, *, ports: Mapping[str, Sequence[int]], rules_text: str
) -> Iterator[Prometheus]:
    """A Prometheus with the shipped configuration that scrapes every second.

    ports: on loopback, of each role.
    """
    program = tool("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for group in config["scrape_configs"][0]["static_configs"]:
        group["targets"] = [f"127.0.0.1:{port}" for port in ports[group["labels"]["role"]]]
    (folder / "rules.yaml").write_text(rules_text)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:
                try:
                    prometheus.get("status/buildinfo")
                    break
                except urllib.error.URLError:
                    said = (folder / "log").read_text()[-2000:]
                    assert process.poll() is None, said
                    assert time.monotonic() < deadline, said
                    time.sleep(0.1)
            yield prometheus
        finally:
            process.kill()
            process.wait(30)
