import http.client
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asyncds.telemetry.catalogue import CATALOGUE, Role, build_metrics
from asyncds.telemetry.server import Check, MetricsServer

ROLES = get_args(Role)


def well() -> str:
    return ""


@pytest.mark.parametrize("role", ROLES)
def test_every_series_is_exported_seeded_with_zero_and_explained(role: Role) -> None:
    text = generate_latest(build_metrics(role).registry).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    for series in CATALOGUE[role]:
        family = families[f"asyncds_{role}_{series.name}".removesuffix("_total")]
        assert family.type == series.kind
        assert family.documentation == series.help
        assert series.help.endswith("]"), f"{series.name} does not name its unit"
        seeded = all(series.labels.values())
        assert bool(family.samples) == seeded, f"{series.name} is not seeded"
        assert all(s.value == 0 for s in family.samples)
        for label, values in series.labels.items():
            assert {s.labels[label] for s in family.samples} == set(values)


@pytest.mark.parametrize("role", ROLES)
def test_names_are_unique_and_follow_prometheus_conventions(role: Role) -> None:
    names = [s.name for s in CATALOGUE[role]]
    assert len(names) == len(set(names))
    for series in CATALOGUE[role]:
        assert series.name.endswith("_total") == (series.kind == "counter"), series.name
        assert bool(series.buckets) == (series.kind == "histogram"), series.name


def test_series_are_reached_by_name_and_kind() -> None:
    metrics = build_metrics("coordinator")
    metrics.counter("steps_total").inc()
    metrics.counter("groups_total", event="leased").inc(3)
    metrics.gauge("pass_at_k", k="8", temperature="0.6").set(0.5)
    metrics.histogram("lag").observe(2)
    text = generate_latest(metrics.registry).decode()
    assert "asyncds_coordinator_steps_total 1.0" in text
    assert 'asyncds_coordinator_groups_total{event="leased"} 3.0' in text
    assert 'asyncds_coordinator_pass_at_k{k="8",temperature="0.6"} 0.5' in text
    assert 'asyncds_coordinator_lag_bucket{le="2.0"} 1.0' in text
    with pytest.raises(KeyError):
        metrics.counter("step_total")
    with pytest.raises(TypeError, match="steps_total is not a gauge"):
        metrics.gauge("steps_total")
    with pytest.raises(ValueError, match="label"):
        metrics.counter("groups_total", what="leased")


def test_two_roles_in_one_process_do_not_share_a_registry() -> None:
    one, other = build_metrics("learner"), build_metrics("learner")
    one.gauge("loss").set(2)
    assert "asyncds_learner_loss 0.0" in generate_latest(other.registry).decode()


@contextmanager
def serving(healthy: Check = well, ready: Check = well) -> Iterator[str]:
    registry = build_metrics("generator").registry
    server = MetricsServer(
        registry=registry, host="127.0.0.1", port=0, healthy=healthy, ready=ready
    )
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_pages() -> None:
    with serving(ready=lambda: "waiting for the first weights") as url:
        status, text = get(f"{url}/metrics?x=1")
        assert status == 200
        assert "asyncds_generator_tokens_total 0.0" in text
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/readyz") == (503, "waiting for the first weights\n")
        assert get(f"{url}/config.yaml")[0] == 404


def test_a_closed_server_frees_its_port() -> None:
    with serving() as url:
        port = int(url.rsplit(":", 1)[1])
    again = MetricsServer(
        registry=build_metrics("generator").registry,
        host="127.0.0.1",
        port=port,
        healthy=well,
        ready=well,
    )
    assert again.port == port
    again.close()


def test_a_port_in_use_is_an_error() -> None:
    with serving() as url, pytest.raises(OSError, match="in use"):
        MetricsServer(
            registry=build_metrics("generator").registry,
            host="127.0.0.1",
            port=int(url.rsplit(":", 1)[1]),
            healthy=well,
            ready=well,
        )


def test_clients_beyond_the_places_are_turned_away_and_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncds.telemetry.server._CONNECTIONS", 4)
    with serving() as url:
        place = "127.0.0.1", int(url.rsplit(":", 1)[1])
        idle = [socket.create_connection(place, 10) for _ in range(4)]
        with socket.create_connection(place, 10) as another:
            assert another.recv(1) == b"", "closed without an answer"
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert get(f"{url}/healthz") == (200, "ok\n")
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline


def test_a_client_that_breaks_off_leaves_no_lines_behind(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as url:
        place = "127.0.0.1", int(url.rsplit(":", 1)[1])
        for _ in range(20):
            with socket.create_connection(place, 10) as connection:
                # Closing with data unread is a reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(f"{url}/healthz") == (200, "ok\n")
    assert "Traceback" not in capfd.readouterr().err


def test_what_the_coordinator_imports_is_light() -> None:
    code = (
        "import sys\n"
        "import asyncds.telemetry.catalogue, asyncds.telemetry.server\n"
        "import asyncds.telemetry.run_log, asyncds.telemetry.summary\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'vllm', 'deepspeed', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
