"""The lab's cluster, for all tests here: started once, ended at the end."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, lab


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster")
    group.addoption("--lab", action="store_true", help="the whole scenario, not its short form")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lab("built", check=False).returncode:
        pytest.skip("the lab is not built: `make k8s-lab` builds it (a quarter of an hour)")
    if os.geteuid():
        pytest.skip("the lab needs root")
    lab("down", check=False)
    try:
        lab("up", "2", "1", timeout=300)
        yield Cluster(tmp_path_factory.mktemp("cluster"))
    finally:
        lab("down")
