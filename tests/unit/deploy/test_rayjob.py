"""The manifest of a run on a Ray cluster of KubeRay's, as a file; no cluster runs it here."""

import shlex
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from asyncds.cli.main import app
from asyncds.config.load import load_config
from tests.support.helm_chart import CRDS
from tests.support.paths import ROOT
from tests.unit.deploy.test_helm import custom_schemas


@pytest.fixture(scope="module")
def job() -> Any:
    return yaml.safe_load((ROOT / "deploy" / "ray" / "rayjob.yaml").read_text())


def pods(job: Any) -> list[Any]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_it_is_valid(job: Any) -> None:
    if not CRDS.is_dir():
        pytest.skip("needs KubeRay's CRDs as files in .tools/crds, or where CRDS names")
    validator = custom_schemas()[job["apiVersion"], job["kind"]]
    assert [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(job)] == []


def test_its_command_is_one_that_there_is(job: Any) -> None:
    command, run, *options = shlex.split(job["spec"]["entrypoint"])
    assert (command, run, options[:2]) == ("asyncds", "run", ["--on", "ray"])
    known = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in known for option in options if option.startswith("--"))
    settings = [word for word in options if "=" in word]
    config = load_config(ROOT / "configs" / "quickstart.yaml", settings)
    assert config.runs_dir.startswith("/shared/")
    assert config.name == job["metadata"]["name"]


def test_all_pods_have_the_same_program_and_files(job: Any) -> None:
    containers = [pod["containers"][0] for pod in pods(job)]
    assert len(containers) == 2
    for key in ("image", "env", "volumeMounts", "securityContext"):
        assert containers[0][key] == containers[1][key]
    for pod in pods(job):
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        assert pod["securityContext"]["runAsNonRoot"]


def test_it_names_the_ray_that_is_locked(job: Any) -> None:
    pytest.importorskip("ray")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
