"""Where processes of asyncds find modules, seen in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncds.user_code import DIRECTORY, find_user_code

CHILD = "import json, sys; print(json.dumps(sys.path))"
PARENT = f"""
import json, subprocess, sys
from asyncds.user_code import find_user_code
find_user_code()
print(json.dumps(sys.path))
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True).stdout)
child = "from asyncds.user_code import find_user_code; find_user_code();" + {CHILD!r}
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, cwd="/").stdout)
"""


def paths(tmp_path: Path, **environment: str) -> list[list[str]]:
    """sys.path of a process that was started in tmp_path, of any Python process below it, and of
    one below it that is ours and has another working directory."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PARENT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | environment,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def test_the_working_directory_comes_last_and_never_first(tmp_path: Path) -> None:
    ours, any_child, our_child = paths(tmp_path)
    assert ours[-1] == our_child[-1] == str(tmp_path)
    assert ours.count(str(tmp_path)) == 1
    assert not {"", str(tmp_path)} & set(any_child)
    assert not {"", "/"} & set(our_child)


def test_the_directory_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    ours, _, our_child = paths(tmp_path, **{DIRECTORY: str(tmp_path / "code")})
    assert ours[-1] == our_child[-1] == str(tmp_path / "code")
    assert str(tmp_path) not in ours


def test_a_directory_that_is_on_the_path_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = list(sys.path)
    find_user_code()
    assert sys.path == before
