"""A run on a Ray cluster, as far as it goes without one (mocked: what the cluster says).

tests/ray has a run on a real one.
"""

import subprocess
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from asyncds.cli.main import app
from asyncds.config.load import ConfigError, load_config
from asyncds.config.schema import RunConfig
from asyncds.launch import ray_site
from asyncds.launch.errors import UserError
from asyncds.launch.ray_plan import Cluster, Machine, Step
from asyncds.launch.ray_site import RaySite
from tests.support.paths import ROOT

CONFIG = ROOT / "configs" / "quickstart.yaml"


def config(tmp_path: Path, *settings: str) -> RunConfig:
    return load_config(CONFIG, [f"runs_dir={tmp_path / 'runs'}", *settings])


def site(monkeypatch: pytest.MonkeyPatch, *machines: Machine, here: str = "10.0.0.1") -> RaySite:
    """One whose cluster has these machines."""
    answer = msgspec.json.encode(Cluster(here=here, machines=list(machines))).decode()

    def answers(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout=f"some noise\n{answer}\n")

    monkeypatch.setattr(ray_site.subprocess, "run", answers)
    return RaySite("10.0.0.1:6379")


def machine(name: str, *, cpus: float = 1, gpus: float = 0, problem: str = "") -> Machine:
    return Machine(name=name, resources={"CPU": cpus, "GPU": gpus}, problem=problem)


def steps(children: list[ray_site.Child]) -> list[Step]:
    return [msgspec.json.decode(child.command[-1], type=Step) for child in children]


def test_a_run_is_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/ours")
    cluster = site(monkeypatch, machine("a", cpus=8, gpus=4), machine("b", cpus=8, gpus=4))
    settings = ("learner.ranks=4", "generator.replicas=2", "generator.tensor_parallel=2")
    run = cluster.prepared(
        config(tmp_path, *settings, "ray.runtime_env={env_vars: {HF_HOME: /shared/hf}}")
    )
    assert run.coordinator.host == "10.0.0.1"
    assert run.coordinator.curve is not None
    assert cluster.prepared(run).coordinator.curve == run.coordinator.curve
    coordinator, *others = cluster.children(run, port=5555)
    assert "asyncds.launch.ray_step" not in coordinator.command
    learner, *generators = steps(others)
    assert (learner.name, learner.ranks) == ("quickstart/learner", 4)
    assert learner.resources == {"CPU": 1, "GPU": 1}
    assert learner.arguments[:3] == ["-m", "asyncds.cli.main", "learner"]
    assert "weights.host={rank0}" in learner.arguments
    assert [(g.ranks, g.resources["GPU"]) for g in generators] == [(1, 2), (1, 2)]
    assert "--name=generator-1" in generators[1].arguments
    assert learner.runtime_env["env_vars"]["HF_HOME"] == "/shared/hf"
    assert learner.runtime_env["env_vars"]["PYTHONPATH"] == "/opt/ours"
    assert "CUDA_VISIBLE_DEVICES" not in learner.environment


def test_a_working_directory_has_the_users_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCDS_CODE", "/home/me")
    cluster = site(monkeypatch, machine("a", cpus=2))
    for given, there in (("{}", True), ("{working_dir: /home/me/task}", False)):
        run = config(tmp_path, f"ray.runtime_env={given}")
        (learner, _) = steps(cluster.children(run, port=1)[1:])
        assert ("ASYNCDS_CODE" in learner.runtime_env["env_vars"]) == there


@pytest.mark.parametrize(
    ("machines", "settings", "said"),
    [
        ([machine("a")], [], r"no room for generator-0, which needs CPU 1.* have CPU 1\."),
        ([machine("a", cpus=4)], ["ray.rank={TPU: 1}"], "no room for learner rank 0.*TPU 1, CPU 1"),
        (
            [machine("a", cpus=9, gpus=1)] * 2,
            ["generator.tensor_parallel=2"],
            "no room for generator-0, which needs GPU 2, CPU 1.*GPU 1, CPU 9; GPU 1, CPU 9",
        ),
        (
            [machine("a", cpus=9), machine("b", problem="does not see the files in /x")],
            [],
            r"b: does not see the files in /x\nset runs_dir \(now .*runs\) to a directory of",
        ),
    ],
)
def test_a_cluster_that_can_not_take_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machines: list[Machine],
    settings: list[str],
    said: str,
) -> None:
    with pytest.raises(UserError, match=said):
        site(monkeypatch, *machines).prepared(config(tmp_path, *settings))
    assert list((tmp_path / "runs").glob("*.*")) in ([], [tmp_path / "runs" / "quickstart.keys"])


def test_a_cluster_that_grows_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path, "ray.autoscales=true")
    assert site(monkeypatch, machine("a", cpus=0), here="127.0.0.1").prepared(run).name == run.name


def test_gpus_are_not_set_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GPUs are not set here"):
        config(tmp_path, "ray.rank={GPU: 2}")


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stderr="…\nConnectionError: nobody\n")

    monkeypatch.setattr(ray_site.subprocess, "run", fails)
    with pytest.raises(UserError, match=r"no connection to the Ray cluster at auto: Conn.* nobody"):
        RaySite().prepared(config(tmp_path))


def test_what_the_option_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(on: str) -> str:
        return str(CliRunner().invoke(app, ["run", "--on", on, str(CONFIG)]).exception)

    assert "give slurm, ray or ray=ADDRESS" in said("mars")
    assert "ray job submit" in said("ray=ray://head:10001")
    monkeypatch.setattr(ray_site.importlib.util, "find_spec", lambda _: None)
    assert said("ray") == "--on ray needs the package ray: install `asyncds[ray]`"
