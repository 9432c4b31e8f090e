"""Free memory, also in a container; its files are mocked."""

from pathlib import Path

import psutil
import pytest

from asyncds.engine import host_memory
from asyncds.engine.host_memory import free_memory


@pytest.fixture(autouse=True)
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize("limit", [None, "max"])
def test_without_a_limit_it_is_the_machines(group: Path, limit: str | None) -> None:
    if limit:
        (group / "memory.max").write_text(limit + "\n")
    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_a_container_has_what_its_limit_leaves(group: Path) -> None:
    (group / "memory.max").write_text("10000\n")
    (group / "memory.current").write_text("4000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 3000\n")
    assert free_memory() == 9000
