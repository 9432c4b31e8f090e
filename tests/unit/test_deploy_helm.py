"""The Helm chart, rendered by the real helm: no cluster, no image. docs/kubernetes.md."""

import json
import os
import re
import runpy
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from asyncds.config.load import ConfigError, load_config
from asyncds.config.schema import RunConfig
from asyncds.telemetry.catalogue import build_metrics
from asyncds.telemetry.server import MetricsServer

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/asyncds"
EXAMPLES = sorted((CHART / "values-examples").glob("*.yaml"))
TOOLS = ROOT / ".tools/bin"
CRDS = Path(os.environ.get("CRDS", ROOT / ".tools/crds"))
VERSIONS = ("1.25", "1.29", "1.33")
Object = dict[str, Any]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}: `make tools` fetches it")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def template(values: Path, *sets: str, version: str = "1.33") -> subprocess.CompletedProcess[str]:
    options = [option for pair in sets for option in ("--set", pair)]
    return helm(
        *("template", "trial", str(CHART), "-f", str(values), "--kube-version", f"{version}.0"),
        *("--namespace", "lab", *options),
    )


def example(name: str) -> Path:
    return CHART / "values-examples" / f"{name}.yaml"


@cache
def text(values: Path, *sets: str, version: str = "1.33") -> str:
    done = template(values, *sets, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values: Path, *sets: str) -> list[Object]:
    return [o for o in yaml.load_all(text(values, *sets), Loader=Loader) if o]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = [o for o in objects if o["kind"] == kind and name in o["metadata"]["name"]]
    return found


def pod_specs(node: Any) -> Iterator[Object]:
    """Everything below `node` that is a pod's specification."""
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for inner in node.values():
            yield from pod_specs(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from pod_specs(inner)


def run_config(objects: list[Object], tmp_path: Path, overrides: list[str]) -> RunConfig:
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "-config")["data"]["config.yaml"])
    return load_config(file, overrides)


each_example = pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)


@each_example
def test_lint_finds_nothing(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_builtin_kinds_are_valid(version: str, tmp_path: Path) -> None:
    validate = tool("kubernetes-validate")
    files = []
    for values in EXAMPLES:
        files.append(tmp_path / values.name)
        files[-1].write_text(text(values, version=version))
    done = subprocess.run(
        [validate, "-k", version, "--strict", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


HELM4 = """
import json, sys
import helm_python
with helm_python.Chart.load(sys.argv[1]) as chart:
    made = chart.render(json.loads(sys.argv[2]), name="trial", namespace="lab")
print(json.dumps([text for path, text in made.items() if path.endswith(".yaml")]))
"""


@each_example
def test_helm_4_makes_the_same_objects(values: Path) -> None:
    # Helm reads 1e-6 as a number, PyYAML as text.
    numbers = re.sub(r"\b(\d)(e-\d+)", r"\1.0\2", values.read_text())
    given = json.dumps(yaml.safe_load(numbers))
    done = subprocess.run(
        [tool("helm4"), "-c", HELM4, str(CHART), given],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout)
    made = [o for text in texts for o in yaml.load_all(text, Loader=Loader) if o]

    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(o["kind"], o["metadata"]["name"]): o for o in objects}

    assert by_name(made) == by_name(render(values))


def strict(schema: Any) -> Any:
    """A CRD's structural schema as a JSON Schema that refuses unknown fields."""
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    if out.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in out:
        out["properties"] = {name: strict(inner) for name, inner in out["properties"].items()}
        if not out.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        out[key] = strict(out[key]) if key in out else None
        if out[key] is None:
            del out[key]
    return out


@cache
def custom_schemas() -> dict[tuple[str, str], Any]:
    schemas = {}
    for file in sorted(CRDS.glob("*.yaml")):
        crd = yaml.load(file.read_text(), Loader=Loader)["spec"]
        for version in crd["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            name = f"{crd['group']}/{version['name']}"
            schemas[name, crd["names"]["kind"]] = jsonschema.Draft7Validator(schema)
    return schemas


CUSTOM = {"JobSet", "LeaderWorkerSet", "RayCluster", "ScaledObject", "PodMonitor", "PrometheusRule"}


def test_custom_resources_are_valid() -> None:
    if not CRDS.is_dir():
        pytest.skip(
            "needs the CRDs of JobSet, LeaderWorkerSet, KubeRay, KEDA and the Prometheus "
            "operator as files in .tools/crds, or in the directory that CRDS names"
        )
    seen = set()
    for values in EXAMPLES:
        for o in render(values):
            if o["kind"] in CUSTOM:
                seen.add(o["kind"])
                validator = custom_schemas()[o["apiVersion"], o["kind"]]
                problems = [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(o)]
                assert not problems, f"{values.stem}: {o['kind']}: {problems[:3]}"
    assert seen == CUSTOM


@each_example
def test_every_pod_is_restricted(values: Path) -> None:
    objects = render(values)
    rdma = values.stem == "multi-node-rdma"
    specs = [spec for o in objects for spec in pod_specs(o)]
    assert len(specs) >= 4
    for spec in specs:
        context = spec["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] >= 1000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        writable = {v["name"] for v in spec.get("volumes", []) if "emptyDir" in v}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"]["drop"] == ["ALL"]
            assert rdma or "add" not in context["capabilities"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
            for path in ("/tmp", "/cache"):
                assert path not in mounts or mounts[path] in writable
            if container["name"] in ("coordinator", "learner", "generator", "ray"):
                assert {"/tmp", "/cache"} <= set(mounts)
        grace = spec.get("terminationGracePeriodSeconds", 30)
        assert grace > 1


@each_example
def test_every_role_has_probes_on_the_port_of_its_metrics(values: Path) -> None:
    roles = set()
    for o in render(values):
        for spec in pod_specs(o):
            main = spec["containers"][0]
            if main["name"] not in ("coordinator", "learner", "generator"):
                continue
            if main["command"][-1] == "engine-worker":
                assert "readinessProbe" not in main
                continue
            roles.add(main["name"])
            assert main["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
            startup = main["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
            assert main["livenessProbe"]["exec"]["command"][-1].endswith("probe.sh")
            (port,) = [p["containerPort"] for p in main["ports"] if p["name"] == "metrics"]
            assert {"name": "METRICS_PORT", "value": str(port)} in main["env"]
            assert spec["initContainers"][0]["name"] == "check-config"
    assert roles == {"coordinator", "learner", "generator"}


@each_example
def test_the_configuration_is_accepted_with_each_pods_overrides(
    values: Path, tmp_path: Path
) -> None:
    objects = render(values)
    config = run_config(objects, tmp_path, [])
    service = one(objects, "Service", "-coordinator")
    assert config.coordinator.host == service["metadata"]["name"]
    assert config.coordinator.port == service["spec"]["ports"][0]["port"]
    for spec in (spec for o in objects for spec in pod_specs(o)):
        for container in spec["containers"]:
            if container["name"] == "generator" and container["command"][-1] == "generator":
                other = run_config(objects, tmp_path, container["args"])
                gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 1))
                assert other.generator.tensor_parallel == gpus
            elif container["name"] == "learner":
                env = {e["name"]: e.get("value") for e in container["env"]}
                assert config.learner.ranks == int(env["NODES"]) * int(env["PROCESSES"])


def role(
    tmp_path: Path, name: str, env: dict[str, str], stub: str
) -> subprocess.CompletedProcess[str]:
    """role.sh with stubs for asyncds and torchrun, which print what they are called with."""
    for command in ("asyncds", "torchrun"):
        (tmp_path / command).write_text(f'#!/bin/sh\necho {command} "$@"\n{stub}\n')
        (tmp_path / command).chmod(0o755)
    script = (CHART / "files/role.sh").read_text().replace("/tmp/", f"{tmp_path}/")
    return subprocess.run(
        ["sh", "-c", script, "role.sh", name, "a.b=1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CONFIG": "c.yaml", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_roles_metrics_have_the_same_port_in_every_pod(tmp_path: Path) -> None:
    """Mocked: the processes. A process takes telemetry.port and its place."""
    learner = role(
        tmp_path,
        "learner",
        {"METRICS_PORT": "9400", "HOSTNAME": "trial-learner-3", "NODES": "4", "PROCESSES": "8",
         "MASTER_ADDRESS": "m", "MASTER_PORT": "1", "POD_IP": "10.0.0.7"},
        "exit 3",
    )  # fmt: skip
    assert learner.returncode == 3
    assert "--node-rank 3" in learner.stdout
    assert "weights.host=10.0.0.7" in learner.stdout
    (port,) = re.findall(r"telemetry\.port=(\d+)", learner.stdout)
    assert int(port) + 1 + 3 * 8 == 9400
    generator = role(
        tmp_path, "generator", {"METRICS_PORT": "9400", "RANKS": "32", "POD_NAME": "g"}, "exit 0"
    )
    assert generator.returncode == 0
    (port,) = re.findall(r"telemetry\.port=(\d+)", generator.stdout)
    assert int(port) + 1 + 32 == 9400
    assert generator.stdout.startswith("asyncds generator --name g c.yaml")


def test_a_generator_whose_run_is_over_ends_or_waits(tmp_path: Path) -> None:
    """Mocked: the generator, and waiting."""
    env = {"METRICS_PORT": "9400", "RANKS": "1", "POD_NAME": "g"}
    (tmp_path / "sleep").write_text("#!/bin/sh\nkill -TERM $PPID\n")
    (tmp_path / "sleep").chmod(0o755)
    ended = role(tmp_path, "generator", env, "exit 0")
    assert ended.returncode == 0
    assert not (tmp_path / "over").exists()
    held = role(tmp_path, "generator", env | {"HOLD": "1"}, "exit 0")
    assert held.returncode == 0
    assert (tmp_path / "over").exists()
    failed = role(tmp_path, "generator", env | {"HOLD": "1"}, "exit 1")
    assert failed.returncode == 1
    assert not (tmp_path / "over").exists()


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
    for workload in free["args"]:
        version, plural, called = workload.rsplit("/", 2)
        asked.setdefault(plural, set()).add(called)
        kind = {"deployments": "Deployment", "statefulsets": "StatefulSet"}
        assert one(objects, kind.get(plural, "LeaderWorkerSet"), called)["apiVersion"] == version
    assert asked == freed
    allowed: dict[str, set[str]] = {}
    for rule in one(objects, "Role")["rules"]:
        assert rule["verbs"] == ["patch"]
        (resource,) = rule["resources"]
        allowed.setdefault(resource.removesuffix("/scale"), set()).update(rule["resourceNames"])
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
    kubernetes: tuple[str, Path, list[tuple[str, str, Any]]],
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
    command = [sys.executable, "-I", "-c", script]
    with subprocess.Popen(
        [*command, "apps/v1/statefulsets/absent", f"apps/v1/deployments/{name}"],
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
    due, wait = free["Due"](["a", "b"]), free["LEAVE_SECONDS"]
    assert due.now(None, 0.0) == []
    assert due.now(False, 1.0) == []
    assert due.now(True, 2.0) == []
    assert due.now(True, 2.0 + wait - 1) == []
    assert due.now(None, 2.0 + wait) == ["a", "b"], "one that does not answer has said so before"
    due.done("a")
    assert due.now(True, 99.0) == ["b"]
    due.done("b")
    assert due.now(True, 999.0) == [], "what was scaled up since stays"
    assert due.now(False, 1000.0) == []
    assert due.now(True, 1001.0) == []
    assert due.now(True, 1001.0 + wait) == ["a", "b"]


def test_no_server_means_that_nothing_is_known_of_the_run() -> None:
    free = runpy.run_path(str(CHART / "files/free.py"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert free["over"](f"http://127.0.0.1:{port}/metrics") is None


@pytest.mark.parametrize(("most", "stay"), [("25%", 0), ("0", 1), ("1", 0), ("0%", 1)])
def test_a_jobs_budget_says_how_many_stay(most: str, stay: int) -> None:
    sets = ("generators.pools.main.kind=Job", f"generators.pools.main.pdb.maxUnavailable={most}")
    objects = render(example("cpu-demo"), *sets)
    assert one(objects, "PodDisruptionBudget", "-main")["spec"]["minAvailable"] == stay


def test_a_signal_reaches_the_process_and_ends_the_pod(tmp_path: Path) -> None:
    """Mocked: the generator, which leaves in good order when it is told to."""
    env = {"METRICS_PORT": "9400", "RANKS": "1", "POD_NAME": "g", "HOLD": "1"}
    stub = "trap 'echo leaving; exit 0' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.05; done"
    done = role(tmp_path, "generator", env, stub)
    assert "leaving" in done.stdout
    assert done.returncode == 143, "0 would say that the run is over"
    assert not (tmp_path / "over").exists()


def test_a_real_coordinator_starts_answers_its_probe_and_is_killed_by_its_hook(
    tmp_path: Path,
) -> None:
    objects = render(example("cpu-demo"))
    (spec,) = pod_specs(one(objects, "StatefulSet", "coordinator"))
    config = tmp_path / "config.yaml"
    config.write_text(one(objects, "ConfigMap", "-config")["data"]["config.yaml"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    here = {
        name: body.replace("/tmp/", f"{tmp_path}/")
        for name, body in (
            ("role", (CHART / "files/role.sh").read_text()),
            ("probe", (CHART / "files/probe.sh").read_text()),
            ("hook", hook),
        )
    }
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONFIG": str(config),
        "METRICS_PORT": str(port),
    }

    def shell(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["sh", "-c", here[name], name, *arguments]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    overrides = (f"runs_dir={tmp_path}", f"telemetry.port={port}", "coordinator.port=0")
    with shell("role", "coordinator", *overrides) as pod:
        try:
            assert pod.stderr is not None
            log = ""
            while "control plane at tcp://0.0.0.0" not in log:
                line = pod.stderr.readline()
                assert line, f"it ended: {log}"
                log += line
            with shell("probe") as probe:
                _, why = probe.communicate(timeout=30)
            assert probe.returncode == 0, why
            with shell("hook") as killing:
                assert killing.wait(timeout=30) == 0
            assert pod.wait(timeout=30) == 128 + signal.SIGKILL
        finally:
            if pod.poll() is None:
                with shell("hook") as killing:
                    killing.wait(timeout=30)
    assert (tmp_path / "trial/journal.db").exists()
    with shell("probe") as probe:
        probe.communicate(timeout=30)
    assert probe.returncode != 0


def test_keys_of_a_role_are_mounted_for_it_alone() -> None:
    objects = render(example("8x8"))
    for kind, name, files in (
        ("StatefulSet", "coordinator", {"server.key_secret"}),
        ("JobSet", "learner", {"server.key", "learner.key_secret"}),
        ("Deployment", "generator", {"server.key", "generator.key_secret"}),
    ):
        (spec,) = pod_specs(one(objects, kind, name))
        volumes = {v["name"]: v for v in spec["volumes"]}
        secret = volumes["keys"]["secret"]
        assert {item["key"] for item in secret["items"]} == files
        assert secret["defaultMode"] == 0o440
        assert ("clients" in volumes) == (name == "coordinator")


def test_the_coordinator_is_killed_and_not_told_to_stop() -> None:
    (spec,) = pod_specs(one(render(example("8x8")), "StatefulSet", "coordinator"))
    assert "kill -KILL" in spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_an_autoscaled_pool_has_no_replicas() -> None:
    objects = render(example("spot-generators"))
    assert "replicas" not in one(objects, "Deployment", "-spot")["spec"]
    assert one(objects, "Deployment", "-main")["spec"]["replicas"] == 2
    scaled = one(objects, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"].endswith("-spot")
    assert "- 2" in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_budgets_keep_the_whole_gang_and_most_of_each_pool() -> None:
    objects = render(example("multi-node-rdma"))
    budget = one(objects, "PodDisruptionBudget", "-learner")["spec"]
    # maxUnavailable needs a scale subresource, which a Job does not have.
    assert budget["minAvailable"] == 4
    assert "maxUnavailable" not in budget
    labels = one(objects, "JobSet")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert budget["selector"]["matchLabels"].items() <= labels["metadata"]["labels"].items()
    pool = one(objects, "PodDisruptionBudget", "-main")["spec"]
    assert pool["maxUnavailable"] == "25%"


def test_hpa_where_it_is_asked_for() -> None:
    objects = render(
        example("spot-generators"), "generators.pools.spot.autoscaling.kind=hpa",
        "generators.pools.spot.autoscaling.minReplicas=1",
    )  # fmt: skip
    assert one(objects, "HorizontalPodAutoscaler")["apiVersion"] == "autoscaling/v2"
    assert not [o for o in objects if o["kind"] == "ScaledObject"]


def test_a_pool_says_only_what_differs_from_the_defaults() -> None:
    more = "generators.pools.main.resources.requests.cpu=1500m"
    (spec,) = pod_specs(one(render(example("8x8"), more), "Deployment", "-main"))
    resources = spec["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "1500m", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert resources["limits"]["memory"] == "128Gi"


def test_a_changed_configuration_restarts_pods() -> None:
    def sums(*sets: str) -> set[str]:
        return set(re.findall(r"checksum/config: (\w+)", text(example("8x8"), *sets)))

    assert len(sums()) == 1
    assert not sums() & sums("config.seed=7")


def test_default_deny_covers_every_pod_and_ports_fit() -> None:
    objects = render(example("8x8"))
    deny = one(objects, "NetworkPolicy", "-default")["spec"]
    selector = deny["podSelector"]["matchLabels"].items()
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for o in objects:
        labels = (
            o["spec"].get("template", {}).get("metadata", {}).get("labels") if "spec" in o else None
        )
        assert labels is None or selector <= labels.items()
    into = one(objects, "NetworkPolicy", "-coordinator")["spec"]["ingress"][0]
    assert (
        into["ports"][0]["port"]
        == one(objects, "Service", "-coordinator")["spec"]["ports"][0]["port"]
    )


def test_the_live_page_is_served_where_it_is_asked_for(tmp_path: Path) -> None:
    sets = ("telemetry.page.enabled=true",
            "telemetry.page.from[0].namespaceSelector.matchLabels.name=outside")  # fmt: skip
    objects = render(example("8x8"), *sets)
    assert run_config(objects, tmp_path, []).telemetry.page is True
    (spec,) = pod_specs(one(objects, "StatefulSet", "-coordinator"))
    ports = {p["name"]: p["containerPort"] for p in spec["containers"][0]["ports"]}
    service = one(objects, "Service", "-page")["spec"]
    labels = one(objects, "StatefulSet", "-coordinator")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": "metrics"}]
    (let_in,) = (
        rule
        for rule in one(objects, "NetworkPolicy", "-coordinator")["spec"]["ingress"]
        if {"namespaceSelector": {"matchLabels": {"name": "outside"}}} in rule["from"]
    )
    assert let_in["ports"] == [{"port": ports["metrics"], "protocol": "TCP"}]
    without = render(example("8x8"), sets[1])
    assert run_config(without, tmp_path, []).telemetry.page is None, "off: it is not on loopback"
    assert not [o for o in without if o["metadata"]["name"].endswith("-page")]
    assert "outside" not in json.dumps(one(without, "NetworkPolicy", "-coordinator"))


def test_secrets_of_trackers_are_given_to_the_coordinator_alone(tmp_path: Path) -> None:
    sets = ("telemetry.trackersSecret=wandb", "config.telemetry.trackers={wandb}")
    objects = render(example("8x8"), *sets)
    given = [
        container["name"]
        for o in objects
        for spec in pod_specs(o)
        for container in spec["containers"]
        if container.get("envFrom") == [{"secretRef": {"name": "wandb"}}]
    ]
    assert given == ["coordinator"]
    (tracker,) = run_config(objects, tmp_path, []).telemetry.trackers
    assert tracker.kind == "wandb"
    egress = one(objects, "NetworkPolicy", "-coordinator")["spec"]["egress"]
    assert {"port": 443, "protocol": "TCP"} in egress[0]["ports"]


def test_rules_and_dashboards_are_those_of_deploy() -> None:
    objects = render(example("8x8"))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    assert one(objects, "PrometheusRule")["spec"] == rules
    boards = {p.name: p.read_text() for p in (ROOT / "deploy/grafana").glob("*.json")}
    labelled = [o for o in objects if "grafana_dashboard" in o["metadata"].get("labels", {})]
    assert {k: v for o in labelled for k, v in o["data"].items()} == boards


REFUSED = [
    ("generators.pools.main.replica=2", "replica"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("image.digest=sha256:abc", "digest"),
    ("image.tag=a b", "tag"),
    ("security.userId=0", "userId"),
    ("security.allowUnencrypted=true", "set one of them"),
    ("security.curve.clientsSecret=", "set both"),
    ("coordinator.port=80", "port"),
    ("coordinator.port=9401", "choose another"),
    ("coordinator.replicas=2", "replicas"),
    ("learner.kind=Deployment", "kind"),
    ("learner.nodes=0", "nodes"),
    ("learner.storage.accessMode=ReadWriteOnce", "ReadWriteMany"),
    ("learner.shmSize=lots", "shmSize"),
    ("learner.overrides.nonsense=1", "nonsense"),
    ("generators.pools.main.kind=StatefulSet", "kind"),
    ("generators.pools.main.groupSize=2", "LeaderWorkerSet"),
    ("generators.pools.main.autoscaling.maxReplicas=none", "maxReplicas"),
    ("generators.pools.main.rollingUpdate.maxSurge=some", "maxSurge"),
    ("telemetry.page.on=true", "on"),
    ("telemetry.trackersSecret=A_B", "trackersSecret"),
    ("freeAtEnd=sometimes", "freeAtEnd"),
    ("config.coordinator.stay=false", "remove it"),
    ("generators.pools.main.gpus=two", "gpus"),
    ("generators.pools.Main.replicas=1", "Main"),
    ("generators.pools.main.drain.seconds=1", "seconds"),
    ("generators.pools.main.pdb.maxUnavailable=some", "maxUnavailable"),
    ("generators.pools.main.resources.requests.cpu=much", "cpu"),
    ("config.coordinator.host=10.0.0.1", "remove it"),
    ("config.learner.ranks=3", "remove it"),
    ("config.runs_dir=/x", "remove it"),
    ("config.model=", "model"),
    ("config.scoring.backend=ray", "remove it"),
    ("telemetry.port=1030", "choose one above"),
    ("networkPolicy.enable=true", "enable"),
    ("monitoring.podMonitor.interval=often", "interval"),
    ("serviceAccount.create=false", "serviceAccount.name"),
    ("nonsense=1", "nonsense"),
]


@pytest.mark.parametrize(("value", "named"), REFUSED, ids=[value for value, _ in REFUSED])
def test_a_mistake_is_refused_by_name(value: str, named: str) -> None:
    done = template(example("8x8"), value)
    assert done.returncode != 0
    assert named in done.stderr.replace(value, "")


def test_values_that_contradict_each_other_are_refused() -> None:
    for sets, named in (
        (("generators.pools.main.kind=Job", "generators.pools.main.autoscaling.enabled=true"),
         "set kind to Deployment"),
        (("telemetry.page.enabled=true", "config.telemetry.page=false"), "set one of them"),
    ):  # fmt: skip
        done = template(example("8x8"), *sets)
        assert done.returncode != 0
        assert named in done.stderr


def test_values_without_keys_or_a_model_are_refused() -> None:
    bare = helm("template", "trial", str(CHART), "--set", "config.model=m")
    assert bare.returncode != 0
    assert "asyncds keys" in bare.stderr
    bare = helm("template", "trial", str(CHART), "--set", "security.allowUnencrypted=true")
    assert bare.returncode != 0
    assert "model is required" in bare.stderr


def test_a_mistake_in_the_configuration_is_refused_by_the_init_container(tmp_path: Path) -> None:
    objects = render(example("8x8"), "config.rollout.groups_per_stp=3")
    with pytest.raises(ConfigError, match=r"did you mean rollout\.groups_per_step"):
        run_config(objects, tmp_path, [])


def test_the_readme_has_every_value() -> None:
    readme = runpy.run_path(str(ROOT / "deploy/helm/readme.py"))["readme"]
    assert (CHART / "README.md").read_text() == readme(), "run python deploy/helm/readme.py"


def test_schema_refuses_unknown_keys_everywhere() -> None:
    def walk(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False:
                yield path
            for key, inner in schema.items():
                yield from walk(inner, f"{path}/{key}")

    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert list(walk(schema, "")) == ["/properties/config"]
