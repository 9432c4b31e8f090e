"""The end of a run on Kubernetes: whose pods are scaled to zero, by whom, and when."""

import json
import runpy
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.server import MetricsServer
from tests.support.helm_chart import (
    CHART,
    example,
    lasting,
    one,
    pod_specs,
    render,
    text,
)


def test_a_pool_that_is_a_job_ends_with_its_run() -> None:
    objects = render(example("8x8"), "generators.pools.main.kind=Job")
    spec = one(objects, "Job", "-generator-main")["spec"]
    # Without completions the first pod that ends well ends the job, and until then pods that are
    # gone are replaced, however many.
    assert "completions" not in spec
    assert (spec["parallelism"], spec["backoffLimit"]) == (24, 2**31 - 1)
    (pod,) = pod_specs(spec)
    assert pod["restartPolicy"] == "OnFailure"
    assert "HOLD" not in {e["name"] for e in pod["containers"][0]["env"]}
    assert one(objects, "PodDisruptionBudget", "-main")["spec"]["minAvailable"] == 18
    config = yaml.safe_load(one(objects, "ConfigMap", "-config")["data"]["config.yaml"])
    assert config["coordinator"]["stay"] is True, "one that comes late has to hear of it"
    assert not [o for o in objects if o["kind"] == "Role"], "nothing is left to free"


def test_a_pool_is_a_deployment_that_waits_when_its_run_is_over() -> None:
    objects = render(example("8x8"))
    spec = one(objects, "Deployment", "-generator-main")["spec"]
    assert spec["replicas"] == 24
    # GPUs of the old pod are needed for the new one.
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    (pod,) = pod_specs(spec)
    (main,) = pod["containers"]
    assert {"name": "HOLD", "value": "1"} in main["env"]
    startup = main["startupProbe"]["periodSeconds"] * main["startupProbe"]["failureThreshold"]
    assert spec["progressDeadlineSeconds"] > startup
    scaled = render(example("spot-generators"))
    query = one(scaled, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert "> bool 0" in query, "KEDA takes it to zero"


FREED = [
    ("8x8", (), {"deployments": {"trial-asyncds-generator-main"}}),
    ("cpu-demo", (), {"deployments": {"trial-asyncds-generator-main"},
                      "statefulsets": {"trial-asyncds-learner"}}),
    ("multi-node-rdma", (), {"leaderworkersets": {"trial-asyncds-generator-main"}}),
    ("spot-generators", (), {"deployments": {"trial-asyncds-generator-main"}}),
    ("spot-generators", ("generators.pools.spot.autoscaling.kind=hpa",),
     {"deployments": {"trial-asyncds-generator-main", "trial-asyncds-generator-spot"}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sets", "freed"), FREED)
def test_what_would_keep_its_gpus_is_freed_and_nothing_else_may_be(
    name: str, sets: tuple[str, ...], freed: dict[str, set[str]]
) -> None:
    objects = render(example(name), *sets)
    (spec,) = pod_specs(one(objects, "StatefulSet", "-coordinator"))
    (free,) = [c for c in spec["containers"] if c["name"] == "free"]
    asked: dict[str, set[str]] = {}
    assert free["command"][-1] == "/opt/asyncds/freed"
    for workload in one(objects, "ConfigMap", "-files")["data"]["freed"].split():
        version, plural, called = workload.rsplit("/", 2)
        asked.setdefault(plural, set()).add(lasting(called))
        kind = {"deployments": "Deployment", "statefulsets": "StatefulSet"}
        assert one(objects, kind.get(plural, "LeaderWorkerSet"), called)["apiVersion"] == version
    assert asked == freed
    allowed: dict[str, set[str]] = {}
    for rule in one(objects, "Role")["rules"]:
        assert rule["verbs"] == ["patch"]
        (resource,) = rule["resources"]
        allowed.setdefault(resource.removesuffix("/scale"), set()).update(
            map(lasting, rule["resourceNames"])
        )
        assert resource.endswith("/scale")
    assert allowed == freed
    binding = one(objects, "RoleBinding")
    assert binding["roleRef"]["name"] == one(objects, "Role")["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (spec["serviceAccountName"], "lab")
    # The coordinator, which reads what others send, has no token.
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in spec["containers"]}
    assert "account" in mounts["free"]
    assert "account" not in mounts["coordinator"]
    for o in objects:
        for other in pod_specs(o):
            assert (other is spec) == ("account" in {v["name"] for v in other.get("volumes", [])})


def test_nothing_has_a_token_where_it_is_not_wanted() -> None:
    rendered = text(example("8x8"), "freeAtEnd=false")
    assert "serviceAccountToken" not in rendered
    assert "kind: Role" not in rendered


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[tuple[str, Path, list[tuple[str, str, Any]]]]:
    """A stand-in for the API over HTTPS: its address, the account's files, what it was asked.
    Workloads called `absent` do not exist; every other request fails the first time."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("a-token")
    (account / "namespace").write_text("lab")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=k",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key",
         "-out", account / "ca.crt"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    asked: list[tuple[str, str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            first = not any(path == self.path for _, path, _ in asked)
            asked.append((self.headers["Authorization"], self.path, body))
            self.send_response(404 if "absent" in self.path else 500 if first else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", account, asked
        server.shutdown()


def test_pods_are_freed_when_the_coordinator_says_that_the_run_is_over(
    kubernetes: tuple[str, Path, list[tuple[str, str, Any]]], tmp_path: Path
) -> None:
    """Mocked: Kubernetes' API. The metrics are those of a coordinator, the process is real."""
    api, account, asked = kubernetes
    metrics = build_metrics("coordinator")
    metrics.gauge("over", end="failed").set(1)
    server = MetricsServer(
        registry=metrics.registry, host="127.0.0.1", port=0,
        healthy=lambda: "", ready=lambda: "",
    )  # fmt: skip
    script = (CHART / "files/free.py").read_text()
    for told, instead in (
        ('"https://kubernetes.default.svc"', repr(api)),
        ('Path("/var/run/secrets/kubernetes.io/serviceaccount")', f"Path({str(account)!r})"),
        ("LEAVE_SECONDS = 30.0", "LEAVE_SECONDS = 0.0"),
        ("POLL_SECONDS = 5.0", "POLL_SECONDS = 0.02"),
    ):
        assert script.count(told) == 1
        script = script.replace(told, instead)
    name = "trial-asyncds-generator-main"
    file = tmp_path / "freed"
    file.write_text(f"apps/v1/statefulsets/absent\napps/v1/deployments/{name}\n")
    with subprocess.Popen(
        [sys.executable, "-I", "-c", script, str(file)],
        env={"METRICS_PORT": str(server.port)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "was not scaled to zero: HTTP Error 500" in process.stdout.readline()
            assert f"{name} has no pods" in process.stdout.readline()
        finally:
            process.terminate()
            assert process.wait(30) == 0
            server.close()
    root = "/apis/apps/v1/namespaces/lab"
    scale = ("Bearer a-token", f"{root}/deployments/{name}/scale", {"spec": {"replicas": 0}})
    assert asked[1:] == [scale, scale]
    assert asked[0][1] == f"{root}/statefulsets/absent/scale"


def test_pods_are_freed_once_per_end_and_not_while_they_leave() -> None:
    free = runpy.run_path(str(CHART / "files/free.py"))
    due, wait = free["Due"](), free["LEAVE_SECONDS"]
    both = ["a", "b"]
    assert due.now(both, None, 0.0) == []
    assert due.now(both, False, 1.0) == []
    assert due.now(both, True, 2.0) == []
    assert due.now(both, True, 2.0 + wait - 1) == []
    assert due.now(both, None, 2.0 + wait) == ["a", "b"], (
        "one that does not answer has said so before"
    )
    due.done("a")
    assert due.now(both, True, 99.0) == ["b"]
    due.done("b")
    assert due.now(both, True, 999.0) == [], "what was scaled up since stays"
    assert due.now(both, False, 1000.0) == []
    assert due.now(both, True, 1001.0) == []
    assert due.now(both, True, 1001.0 + wait) == ["a", "b"]


def test_no_server_means_that_nothing_is_known_of_the_run() -> None:
    free = runpy.run_path(str(CHART / "files/free.py"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert free["over"](f"http://127.0.0.1:{port}/metrics") is None
