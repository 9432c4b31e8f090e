"""Every configuration that is shipped fits on the GPUs that it is for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncds.config.load import load_config
from asyncds.launch.manifests import read_manifests
from asyncds.launch.model_config import read_model_config
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import GIB, find_gpu, main_memory
from asyncds.plan.plan import Plan, Site, make_plan
from tests.support.helm_chart import each_example, example, text
from tests.support.paths import ROOT

# As each file says: "4 A100", and those of its paper with the memory that the model needs.
PAPER = {
    "countdown-qwen2.5-3b": "a100-80",
    "knights-knaves-qwen2.5-7b": "a100-80",
    "ministral-8b": "a100-80",
    "qwen2.5-math-1.5b": "rtx6000ada-48",
    "qwen2.5-math-7b": "a100-80",
    "qwen3-1.7b": "h100-80",
}
LAPTOP = main_memory(8 * GIB)
SHIPPED_MODEL = str(ROOT / "asyncds/tiny/shipped")


def plan(file: Path, *overrides: str, gpu: str = "", volumes: dict[str, float | None]) -> Plan:
    config = load_config(file, overrides)
    shape = model_shape(read_model_config(config.model)[0])
    device = find_gpu(gpu) if gpu else LAPTOP
    return make_plan(config, shape, Site(learner=device, generator=device, **volumes))


def papers() -> Iterator[Path]:
    yield from sorted((ROOT / "configs/paper").glob("*.yaml"))


@pytest.mark.parametrize("file", papers(), ids=lambda path: path.stem)
def test_the_papers_settings_fit_on_the_papers_gpus(file: Path) -> None:
    found = plan(file, gpu=PAPER[file.stem], volumes={})
    assert found.problems == []
    assert found.notes == []


def test_the_quickstart_fits_on_a_laptop() -> None:
    file = ROOT / "configs/quickstart.yaml"
    assert plan(file, f"model={SHIPPED_MODEL}", volumes={}).problems == []


@each_example
def test_values_examples_fit_their_gpus_and_volumes(values: Path, tmp_path: Path) -> None:
    """By the manifests that the real helm makes of them."""
    release = read_manifests(text(values))
    assert release.checkpoints is not None
    assert release.journal is not None
    file = tmp_path / "config.yaml"
    file.write_text(release.config)
    demo = values.stem == "cpu-demo"
    overrides = [*release.overrides, *([f"model={SHIPPED_MODEL}"] if demo else [])]
    volumes = {"checkpoints": release.checkpoints, "journal": release.journal}
    found = plan(file, *overrides, gpu="" if demo else "h100-80", volumes=volumes)
    assert found.problems == []


def test_manifests_say_what_pods_will_be_told() -> None:
    release = read_manifests(text(example("multi-node-rdma")))
    told = {"generator.tensor_parallel=8", "generator.pipeline_parallel=2", "generator.replicas=2"}
    assert told <= {*release.overrides}
    assert release.journal == 20 * GIB
    pools = read_manifests(text(example("8x8")))
    assert {"generator.tensor_parallel=2", "generator.replicas=24"} <= {*pools.overrides}
