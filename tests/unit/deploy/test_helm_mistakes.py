"""Mistakes in the chart's values: each is refused by helm with a sentence that names it."""

import subprocess

import pytest

from tests.support.helm_chart import CHART, IMAGE, example, helm, template

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
    ("config.model=", "config.model"),
    ("config.scoring.backend=ray", "remove it"),
    ("telemetry.port=1030", "choose one above"),
    ("networkPolicy.enable=true", "enable"),
    ("monitoring.podMonitor.interval=often", "interval"),
    ("serviceAccount.create=false", "serviceAccount.name"),
    ("nonsense=1", "nonsense"),
    ("config.generator.tensor_parallel=4", "remove tensor_parallel"),
    ("generators.pools.main.overrides.generator\\.tensor_parallel=4", "remove tensor_parallel"),
    ("generators.pools.main.engineArgs.tensor_parallel_size=4", "remove tensor_parallel"),
    ("config.generator.engine_args.tensor_parallel_size=4", "remove tensor_parallel"),
    ("config.generator.pipeline_parallel=2", "remove pipeline_parallel"),
    ("generators.pools.main.gpus=3", "gpus"),
    ("learner.processesPerNode=16", "lower it"),
    ("generators.pools.main.replicas=0", "nothing would be generated"),
    ("generators.pools.main.enabled=false", "nothing would be generated"),
    ("learner.resources.requests.memory=300Gi", "lower it"),
    ("generators.pools.main.resources.requests.memory=1Ti", "lower it"),
    ("coordinator.resources.requests.memory=5Gi", "lower it"),
    ("learner.shmSize=300Gi", "lower it"),
    ("generators.pools.main.shmSize=200Gi", "lower it"),
    ("config.model=/models/qwen", "model.existingClaim"),
    ("config.coordinator.journal_gb=20", "coordinator.storage.size"),
    ("coordinator.storage.size=5", "size"),
    ("config.scoring.backend=ray,ray.enabled=false", "ray.enabled"),
    (
        "generators.pools.main.autoscaling.enabled=true,monitoring.podMonitor.enabled=false",
        "podMonitor",
    ),
    ("telemetry.page.ingress.enabled=true", "telemetry.page.enabled"),
    ("telemetry.page.enabled=true,telemetry.page.ingress.enabled=true", "host"),
    ("model.cache.existingClaim=a,model.cache.hostPath=/b", "set one of them"),
    ("model.cache.hostPath=relative", "hostPath"),
    ("model.cache.sizeLimit=much", "sizeLimit"),
    ("image.repository=", "make image"),
    ("image.repository=Example.com/X", "repository"),
    ("learner.image.tag=a b", "tag"),
    ("learner.gpuResource=gpu", "gpuResource"),
    ("learner.podLabels.a=1", "podLabels"),
    ("learner.hostNetwork=perhaps", "hostNetwork"),
    ("learner.topologySpreadConstraints[0].maxSkew=0", "maxSkew"),
    ("generators.pools.main.rdma.runAsRoot=maybe", "runAsRoot"),
    ("test.minutes=0", "minutes"),
    ("checkConfig=maybe", "checkConfig"),
    ("config.rollout.groups_per_stp=3", "groups_per_stp"),
    ("config.learner.lr=fast", "lr"),
    ("config.algorithm.advantage.kind=ds_grp", "kind"),
    ("config.algorithm.loss.kind=clipp", "kind"),
    ("config.task.kind=contdown", "kind"),
    ("config.task.operands=x", "operands"),
    ("config.steps=-1", "steps"),
    ("config.learner.zero_stage=4", "zero_stage"),
    ("config.eval.split=test", "split"),
    ("config.dtype=float16", "dtype"),
    ("config.weights.transport=rdma", "transport"),
    ("config.sampling.max_tokens=0", "max_tokens"),
    ("config.checkpoint.keep_last=0", "keep_last"),
    ("config.learner.lr=0", "lr"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[values for values, _ in REFUSED])
def test_a_mistake_is_refused_by_name(values: str, named: str) -> None:
    done = template(example("8x8"), values)
    assert done.returncode != 0
    assert named in done.stderr.replace(values, "")


def test_values_that_contradict_each_other_are_refused() -> None:
    for sets, named in (
        (("generators.pools.main.kind=Job", "generators.pools.main.autoscaling.enabled=true"),
         "set kind to Deployment"),
        (("telemetry.page.enabled=true", "config.telemetry.page=false"), "set one of them"),
    ):  # fmt: skip
        done = template(example("8x8"), *sets)
        assert done.returncode != 0
        assert named in done.stderr


@pytest.mark.parametrize(
    ("name", "api", "named"),
    [
        ("8x8", "jobset.x-k8s.io/v1alpha2/JobSet", "install JobSet 0.8 or newer"),
        ("8x8", "ray.io/v1/RayCluster", "install KubeRay 1.6 or newer"),
        ("8x8", "monitoring.coreos.com/v1/PodMonitor", "the Prometheus operator"),
        ("8x8", "monitoring.coreos.com/v1/PrometheusRule", "the Prometheus operator"),
        (
            "multi-node-rdma",
            "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",
            "install LeaderWorkerSet 0.6 or newer",
        ),
        ("spot-generators", "keda.sh/v1alpha1/ScaledObject", "install KEDA 2.14 or newer"),
    ],
)
def test_a_controller_that_a_cluster_lacks_is_named(name: str, api: str, named: str) -> None:
    """Where helm is told what the cluster serves, as it is at an installation."""
    apis = {
        "v1/Pod",
        "jobset.x-k8s.io/v1alpha2/JobSet",
        "ray.io/v1/RayCluster",
        "monitoring.coreos.com/v1/PodMonitor",
        "monitoring.coreos.com/v1/PrometheusRule",
        "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",
        "keda.sh/v1alpha1/ScaledObject",
    }

    def rendered(served: set[str]) -> subprocess.CompletedProcess[str]:
        options = [option for x in sorted(served) for option in ("--api-versions", x)]
        return helm("template", "trial", str(CHART), "-f", str(example(name)), *IMAGE, *options)

    assert rendered(apis).returncode == 0
    lacking = rendered(apis - {api})
    assert lacking.returncode != 0
    assert api in lacking.stderr
    assert named in lacking.stderr
    assert rendered(set()).returncode == 0, "nothing is known of the cluster"
