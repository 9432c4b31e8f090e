"""A wheel of asyncds, installed as a user does, in a working directory full of modules that have
the names of ours, of the standard library's and of packages that we use, and a task of the user's
own."""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncds.telemetry.summary import read_summary
from tests.e2e.harness import RUN_SECONDS, Runner
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

OWN_TASK = """
from asyncds.tasks.countdown.task import CountdownTask


class Mine(CountdownTask):
    name = "mine"
"""
HOSTILE = ("asyncds", "services", "tests", "math", "random", "typing", "torch", "numpy", "vllm")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel, and all else from this one."""
    root = tmp_path_factory.mktemp("installed")
    source = root / "source"
    for folder in ("asyncds", "services"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", root, source]
    done(*pip, *build)
    done(sys.executable, "-m", "venv", "--without-pip", root / "venv")
    (wheel,) = root.glob("asyncds-*.whl")
    done(*pip, "--python", root / "venv", "install", "--no-deps", "--no-index", wheel)
    (packages,) = (root / "venv").glob("lib/python*/site-packages")
    # Its own packages come first; an editable installation over there is not followed.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return root / "venv" / "bin"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The working directory of somebody who has modules of these names."""
    for name in HOSTILE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the user\\'s {name}')\n")
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    shutil.copy(ROOT / "configs" / "quickstart.yaml", tmp_path)
    return tmp_path


def done(*command: str | Path, **options: object) -> str:
    """What a command prints; it has to end well."""
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, **options
    )  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


def environment(programs: Path) -> Mapping[str, str]:
    """As in a shell where the environment is activated, with this one's tools (ninja, …)."""
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return clean | {"PATH": path, "COLUMNS": "120"}


def test_the_quickstart_runs_from_a_directory_with_packages_of_those_names(
    programs: Path, place: Path, runner: Runner
) -> None:
    where = "import asyncds, services; print(asyncds.__file__, services.__file__)"
    found = done(programs / "python", "-P", "-c", where, cwd=place, env=environment(programs))
    assert found.count(str(programs.parent)) == 2, "the tests would try another installation"
    result = subprocess.run(
        [
            *(programs / "asyncds", "run", "quickstart.yaml", "runs_dir=runs", "name=here"),
            *(f"model={runner.model}", *runner.small, "steps=2", "checkpoint.every=2"),
            *("learner.ranks=2", "task={kind: my_task:Mine, options: {n_eval: 128}}"),
        ],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment(programs),
        timeout=RUN_SECONDS,
    )
    summary = read_summary(place / "runs" / "here" / "summary.json")
    assert summary is not None, result.stdout + result.stderr
    assert (summary["status"], summary["steps"]) == ("finished", 2)


def test_a_pods_learner_starts_in_such_a_directory(programs: Path, place: Path) -> None:
    """The chart's script and the real torchrun; a rank that has found its modules reads its
    configuration, and says what is wrong with that one."""
    script = (ROOT / "deploy/helm/asyncds/files/role.sh").read_text()
    first = "first=${POD_NAME%-*}-0.$SERVICE"  # a name that only a cluster knows
    assert first in script
    (place / "config.yaml").write_text("lerner: {}\n")
    result = subprocess.run(
        ["sh", "-c", script.replace(first, "first=127.0.0.1"), "role.sh", "learner"],
        env=environment(programs)
        | {"CONFIG": "config.yaml", "METRICS_PORT": "9400", "HOSTNAME": "learner-0", "NODES": "1",
           "POD_NAME": "learner-0",
           "PROCESSES": "2", "MASTER_PORT": "0",
           "POD_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        cwd=place,
        timeout=120,
    )  # fmt: skip
    assert "unknown key lerner: did you mean learner?" in result.stderr, result.stderr
    assert result.returncode != 0
