"""The Helm chart, rendered by the real helm: no cluster, no image. docs/kubernetes.md."""

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from asyncds.config.load import ConfigError, load_config
from tests.support.helm_chart import (
    CHART,
    CRDS,
    EXAMPLES,
    IMAGE,
    REPOSITORY,
    ROOT,
    VERSIONS,
    Loader,
    Object,
    each_example,
    example,
    helm,
    lasting,
    one,
    pod_specs,
    render,
    run_config,
    text,
    tool,
)


@each_example
def test_lint_finds_nothing(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(values), *IMAGE)
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
    given = json.dumps({"image": {"repository": REPOSITORY}} | yaml.safe_load(numbers))
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
            assert "add" not in context["capabilities"]
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


@pytest.mark.parametrize(("most", "stay"), [("25%", 0), ("0", 1), ("1", 0), ("0%", 1)])
def test_a_jobs_budget_says_how_many_stay(most: str, stay: int) -> None:
    sets = ("generators.pools.main.kind=Job", f"generators.pools.main.pdb.maxUnavailable={most}")
    objects = render(example("cpu-demo"), *sets)
    assert one(objects, "PodDisruptionBudget", "-main")["spec"]["minAvailable"] == stay


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


ROLES = {"coordinator", "learner", "generator"}


def templates(*sets: str, name: str = "8x8") -> dict[str, Object]:
    """The pods of each role, as they are made."""
    made = {}
    for o in render(example(name), *sets):
        role = o["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if o["kind"] == "JobSet":
            made[role] = o["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        elif o["kind"] in ("StatefulSet", "Deployment"):
            made[role] = o["spec"]["template"]
    assert set(made) == ROLES
    return made


@pytest.mark.parametrize(
    ("value", "read_by"),
    [
        ("config.seed=7", ROLES),
        ("image.tag=next", ROLES),
        ("config.steps=7", {"coordinator", "learner"}),
        ("config.learner.lr=0.5", {"coordinator", "learner"}),
        ("config.algorithm.kl.coef=1", {"coordinator", "learner"}),
        ("config.generator.max_num_seqs=8", {"coordinator", "generator"}),
        ("config.task.operands=5", {"coordinator", "generator"}),
        ("config.eval.n_samples=8", {"coordinator", "generator"}),
        ("learner.resources.limits.memory=300Gi", {"learner"}),
        ("generators.pools.main.resources.limits.memory=300Gi", {"generator"}),
        ("generators.pools.main.replicas=7", set()),
        ("monitoring.podMonitor.enabled=false", set()),
        ("networkPolicy.enabled=false", set()),
    ],
)
def test_pods_are_replaced_whose_role_reads_what_changed(value: str, read_by: set[str]) -> None:
    before, after = templates(), templates(value)
    assert {role for role in ROLES if before[role] != after[role]} == read_by


def test_a_new_version_of_the_chart_replaces_no_pod(tmp_path: Path) -> None:
    chart = tmp_path / "asyncds"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "9.9.9"}))
    arguments = ("-f", str(example("8x8")), "--namespace", "lab", *IMAGE)
    made = helm("template", "trial", str(chart), *arguments)
    newer = [o for o in yaml.load_all(made.stdout, Loader=Loader) if o]
    assert "asyncds-9.9.9" in made.stdout
    for kind in ("JobSet", "StatefulSet", "Deployment"):
        old, new = one(render(example("8x8")), kind), one(newer, kind)
        assert old["metadata"]["name"] == new["metadata"]["name"]
        assert old["spec"] == new["spec"]


@pytest.mark.parametrize("kind", ["JobSet", "StatefulSet"])
def test_the_learner_is_replaced_as_a_whole_when_its_pods_change(kind: str) -> None:
    """Neither can be changed as it is: a JobSet's template is immutable, and a StatefulSet would
    replace the worker group's pods one after the other, each waiting for the others."""

    def names(*sets: str) -> tuple[str, str]:
        objects = render(example("8x8"), f"learner.kind={kind}", *sets)
        claim = one(objects, "PersistentVolumeClaim", "-learner")
        return one(objects, kind, "-learner")["metadata"]["name"], claim["metadata"]["name"]

    same, learner_changed = names("generators.pools.main.gpus=1"), names("config.learner.lr=0.5")
    assert names() == same
    assert learner_changed[0] != names()[0]
    assert lasting(learner_changed[0]) == lasting(names()[0])
    assert learner_changed[1] == names()[1], "the checkpoints stay"


def test_a_job_of_generators_is_replaced_when_its_pods_change() -> None:
    def name(*sets: str) -> str:
        objects = render(example("8x8"), "generators.pools.main.kind=Job", *sets)
        return str(one(objects, "Job", "-generator-main")["metadata"]["name"])

    assert name() == name("config.learner.lr=0.5")
    assert name() != name("config.generator.max_num_seqs=8")


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


def test_targets_have_the_names_of_their_pods_which_are_those_of_the_generators() -> None:
    objects = render(example("8x8"))
    names = []
    for endpoint in one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        (rule,) = (r for r in endpoint["relabelings"] if r["targetLabel"] == "instance")
        assert rule["sourceLabels"] == ["__meta_kubernetes_pod_name"]
        names.append(rule.get("replacement", "$1"))
    assert names == ["$1", *(f"${{1}}:{rank}" for rank in range(1, 8))]
    assert 'asyncds generator --name "$POD_NAME"' in (CHART / "files/role.sh").read_text()


def test_rules_and_dashboards_are_those_of_deploy() -> None:
    objects = render(example("8x8"))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    assert one(objects, "PrometheusRule")["spec"] == rules
    linked = text(
        example("8x8"), "monitoring.prometheusRule.runbookUrl=https://docs.example.com/operations"
    )
    assert "runbook_url: https://docs.example.com/operations#asyncdsnoprogress" in linked
    boards = {p.name: p.read_text() for p in (ROOT / "deploy/grafana").glob("*.json")}
    labelled = [o for o in objects if "grafana_dashboard" in o["metadata"].get("labels", {})]
    given = {k: v for o in labelled for k, v in o["data"].items()}
    # Grafana's sidecar puts all into one folder.
    assert given == {f"lab-trial-asyncds-{name}": text for name, text in boards.items()}


def test_values_without_keys_or_a_model_are_refused() -> None:
    bare = helm("template", "trial", str(CHART), "--set", "config.model=m", *IMAGE)
    assert bare.returncode != 0
    assert "asyncds keys" in bare.stderr
    bare = helm("template", "trial", str(CHART), "--set", "security.allowUnencrypted=true")
    assert bare.returncode != 0
    assert "model is required" in bare.stderr


def test_what_only_asyncds_can_refuse_is_refused_before_anything_changes(tmp_path: Path) -> None:
    """By a hook, which checks what each role will read; here its commands are run."""
    objects = render(example("8x8"), "config.rollout.target_lag=9")
    job, config = one(objects, "Job", "-check"), one(objects, "ConfigMap", "-check")
    for o in (job, config):
        hook = o["metadata"]["annotations"]
        assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert hook["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert config["data"] == one(objects, "ConfigMap", "-config")["data"]
    (spec,) = pod_specs(job)
    containers = {c["name"]: c for c in spec["containers"]}
    assert set(containers) == {"check-coordinator", "check-learner", "check-generators-main"}
    assert containers["check-generators-main"]["args"] == ["generator.tensor_parallel=2"]
    with pytest.raises(ConfigError, match="target_lag 9 is above max_lag 4"):
        run_config(objects, tmp_path, [])


def test_the_configurations_own_schema_is_the_charts() -> None:
    schema = runpy.run_path(str(ROOT / "deploy/helm/schema.py"))["schema"]
    shipped = json.loads((CHART / "values.schema.json").read_text())
    assert shipped == schema(shipped), "run python deploy/helm/schema.py"


def test_the_readme_has_every_value() -> None:
    readme = runpy.run_path(str(ROOT / "deploy/helm/readme.py"))["readme"]
    assert (CHART / "README.md").read_text() == readme(), "run python deploy/helm/readme.py"


def test_schema_refuses_unknown_keys_everywhere() -> None:
    def walk(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            # A choice is refused by what is chosen.
            names = set(schema.get("properties", ())) - {"kind"}
            if names and schema.get("additionalProperties") is not False:
                yield path
            for key, inner in schema.items():
                yield from walk(inner, f"{path}/{key}")

    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert list(walk(schema, "")) == []


def test_the_cpu_demonstration_trains_what_the_quickstart_does(tmp_path: Path) -> None:
    """So that what it reaches on a cluster can be compared."""
    demo = run_config(render(example("cpu-demo")), tmp_path, [])
    quickstart = load_config(ROOT / "configs/quickstart.yaml", [])
    where = {"name", "runs_dir", "model", "coordinator", "telemetry"}
    assert demo.model_dump(exclude=where) == quickstart.model_dump(exclude=where)
