"""The pinned environment: what README promises of Python holds for every package in it."""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT


def pinned(lock: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    found = [line for line in lines if line and not line.startswith(("#", " "))]
    return {line.split("==")[0]: line.split("==")[1].split()[0] for line in found if "==" in line}


def test_every_pinned_package_takes_the_oldest_python_that_is_promised() -> None:
    """Debian 12 has Python 3.11.2; a package that needs 3.11.5 would end `make quickstart`."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = asked.removeprefix(">=").split(",")[0] + ".0"
    refused, seen = [], 0
    for name, version in pinned("cpu.lock").items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        assert installed.version.split("+")[0] == version.split("+")[0], name
        needs = SpecifierSet(installed.metadata["Requires-Python"] or "")
        seen += 1
        if not needs.contains(oldest):
            refused.append(f"{name} {version} needs Python {needs}")
    assert seen > 150
    assert refused == []


@pytest.mark.parametrize("lock", ["cpu.lock", "gpu.lock"])
def test_what_the_project_names_is_pinned(lock: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*extras["dependencies"], *extras["optional-dependencies"]["models"]]
    known = {canonicalize_name(name) for name in pinned(lock)}
    missing = [
        n for n in names if canonicalize_name(Requirement(n).name) not in known | {"asyncds"}
    ]
    assert missing == []
