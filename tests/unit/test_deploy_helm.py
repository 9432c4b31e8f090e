"""The Helm chart, rendered by the real helm: no cluster, no image. docs/kubernetes.md."""

import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from asyncds.config.load import ConfigError, load_config
from asyncds.config.schema import RunConfig

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
    objects = render(example("8x8"))
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
    scaled = render(example("spot-generators"))
    (pod,) = pod_specs(one(scaled, "Deployment", "-spot"))
    assert {"name": "HOLD", "value": "1"} in pod["containers"][0]["env"]
    query = one(scaled, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert "> bool 0" in query


@pytest.mark.parametrize(("most", "stay"), [("25%", 0), ("0", 1), ("1", 0), ("0%", 1)])
def test_a_jobs_budget_says_how_many_stay(most: str, stay: int) -> None:
    objects = render(example("cpu-demo"), f"generators.pools.main.pdb.maxUnavailable={most}")
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
        ("Job", "generator", {"server.key", "generator.key_secret"}),
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
    assert one(objects, "Job", "-main")["spec"]["parallelism"] == 2
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
    (spec,) = pod_specs(one(render(example("8x8"), more), "Job", "-main"))
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
    ("generators.pools.main.autoscaling.enabled=true", "set kind to Deployment"),
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
