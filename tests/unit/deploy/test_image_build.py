"""`make image`. Mocked: the container engines, which write down what they are asked."""

import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BUILD = ROOT / "deploy/images/build.sh"
IMAGE = "registry.example.com/team/asyncds:0.1.0"


def build(
    tmp_path: Path, *arguments: str, engines: dict[str, str], **env: str
) -> subprocess.CompletedProcess[str]:
    """engines: a shell script for each that is there."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, script in engines.items():
        (bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n{script}\n')
        (bin / name).chmod(0o755)
    for name in ("bash", "sh", "dirname", "sed", "timeout", "env"):
        (bin / name).symlink_to(f"/usr/bin/{name}")
    return subprocess.run(
        ["/usr/bin/bash", str(BUILD), *arguments],
        env={"PATH": str(bin)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_engine_that_is_there_builds_and_pushes(tmp_path: Path, engine: str) -> None:
    done = build(tmp_path, "registry.example.com/team", engines={engine: ""})
    assert done.returncode == 0, done.stderr
    assert asked(tmp_path) == [
        f"{engine} info",
        f"{engine} build -f deploy/images/Dockerfile --target gpu -t {IMAGE} .",
        f"{engine} push {IMAGE}",
    ]
    assert "image.repository=registry.example.com/team/asyncds image.tag=0.1.0" in done.stdout


def test_a_client_without_its_service_is_passed_over(tmp_path: Path) -> None:
    engines = {"docker": '[ "$1" != info ]', "podman": ""}
    done = build(tmp_path, "registry.example.com/team", "cpu", engines=engines, PUSH="0")
    assert done.returncode == 0, done.stderr
    assert asked(tmp_path)[2:] == [
        f"podman build -f deploy/images/Dockerfile --target cpu -t {IMAGE}-cpu ."
    ]


@pytest.mark.parametrize(
    ("arguments", "engines", "code", "sentence"),
    [
        ([], {}, 2, "make image REGISTRY="),
        (["r.example.com", "tpu"], {}, 2, "say gpu, cpu or coordinator"),
        (["r.example.com"], {}, 1, "No container engine answers here"),
        (["r.example.com"], {"docker": '[ "$1" != push ]'}, 1, "docker login r.example.com"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, arguments: list[str], engines: dict[str, str], code: int, sentence: str
) -> None:
    done = build(tmp_path, *arguments, engines=engines)
    assert done.returncode == code
    assert sentence in done.stderr
