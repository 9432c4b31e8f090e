"""Every data set of the package reasoning-gym as a task; skipped where it isn't installed.

What fails by the package's own fault is named here, with the reason.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from asyncds.tasks.reasoning_gym import UNHASHED
from asyncds.tasks.registry import make_task

factory = pytest.importorskip("reasoning_gym.factory")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NO_ANSWER = {
    "boxnet": "the package has no plan of its own for the robots",
    "rush_hour": "the package has no moves of its own",
}
TAKES_ANYTHING = {"game_of_life_halting": "its verifier takes any text for True"}
NAMES = sorted(set(factory.DATASETS) - {"composite"})
PRINTED = """
import json, sys
from asyncds.tasks.registry import make_task
for name in json.loads(sys.argv[1]):
    task = make_task("reasoning_gym", dataset=name, n_train=1, n_eval=1)
    found = json.dumps([name, task.fingerprint()])
    print("\\n" + found)  # one of them prints dots
"""


def made(name: str, **options: Any) -> Any:
    return make_task("reasoning_gym", dataset=name, n_train=1, n_eval=1, **options)


@pytest.fixture(autouse=True)
def _hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, str]:
    """Fingerprints of a process whose sets have another order."""
    names = [name for name in NAMES if name not in UNHASHED]
    done = subprocess.run(
        [sys.executable, "-c", PRINTED, json.dumps(names)],
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=800,
    )
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))


@pytest.mark.parametrize("name", NAMES)
def test_a_data_sets_own_answer_is_right_and_rubbish_is_not(name: str) -> None:
    task = made(name)
    for row in [*task.rows("train"), *task.rows("eval")]:
        answers = task.own_answers(row)
        assert bool(answers) == (name not in NO_ANSWER)
        assert all(task.score(row, answer).correct for answer in answers)
        for rubbish in ("", "nobody", "The weather is fine today."):
            found = task.score(row, f"<answer>{rubbish}</answer>").correct
            assert not found or (rubbish and name in TAKES_ANYTHING)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNHASHED])
def test_every_process_has_the_same_problems(name: str, elsewhere: dict[str, str]) -> None:
    assert made(name).fingerprint() == elsewhere[name]


@pytest.mark.parametrize("name", UNHASHED)
def test_what_depends_on_the_order_of_sets_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED")
    with pytest.raises(ValueError, match=f"other problems of {name} in every process: set"):
        made(name)


def test_a_composite_has_problems_of_each() -> None:
    parts = [{"name": "leg_counting"}, {"name": "basic_arithmetic", "weight": 3, "config": {}}]
    task = make_task(
        "reasoning_gym", dataset="composite", options={"datasets": parts}, n_train=20, n_eval=2
    )
    sources = set()
    for row in task.rows("train"):
        (own,) = task.own_answers(row)  # type: ignore[attr-defined]
        assert task.score(row, own).correct
        entry = task._entry(row.fields["index"])  # type: ignore[attr-defined]
        sources.add(entry["metadata"]["source_dataset"])
    assert sources == {"leg_counting", "basic_arithmetic"}
    with pytest.raises(ValueError, match="Must specify at least one dataset"):
        made("composite")
    with pytest.raises(ValueError, match=r"options.datasets has name, weight and config of each"):
        made("composite", options={"datasets": [{"nam": "leg_counting"}]})
