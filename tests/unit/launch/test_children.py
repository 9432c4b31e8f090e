import json
import sys
from pathlib import Path

import pytest

from asyncds.launch.children import RANK_VARIABLES, Child

SAYS = "import json, os; print(json.dumps(dict(os.environ)))"


def test_a_run_inside_somebodys_torchrun_is_no_rank_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("KEPT", "yes")
    child = Child(
        name="learner",
        command=[sys.executable, "-c", SAYS],
        log=tmp_path / "log",
        environment={"RANK": "0"},
    )
    child.start()
    assert child.process is not None
    assert child.process.wait(30) == 0
    environment = json.loads(child.log.read_text())
    assert environment["KEPT"] == "yes"
    told = {name: environment.get(name) for name in RANK_VARIABLES}
    assert told == {name: "0" if name == "RANK" else None for name in RANK_VARIABLES}
