"""A step on a real Ray cluster of two nodes on this machine, with processes that do little."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncds.launch.children import python
from asyncds.launch.ray_plan import Cluster, Step
from tests.ray.ray_cluster import RayCluster, cluster

pytest.importorskip("ray", reason="the package ray is not installed (pip install asyncds[ray])")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAYS = "import os, sys; print(os.environ.get('RANK'), sys.argv[1], flush=True); "
STAYS = "import time; print('up', flush=True); time.sleep(3600)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with cluster(tmp_path_factory.mktemp("home"), "a", "b") as made:
        yield made


class Started:
    """A step that was started."""

    def __init__(self, made: RayCluster, script: str, *arguments: str, **options: Any) -> None:
        step = Step(
            name="run/part",
            address=made.address,
            arguments=["-c", script, *arguments],
            **{"resources": {"CPU": 1}, "environment": {}, "runtime_env": {}, **options},
        )
        self.process = subprocess.Popen(
            python("asyncds.launch.ray_step", msgspec.json.encode(step).decode()),
            env=made.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reads(self, text: str) -> str:
        """Wait until it says so; returns all until then."""
        assert self.process.stdout is not None
        said = ""
        while text not in said:
            line = self.process.stdout.readline()
            assert line, said
            said += line
        return said

    def ends(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=300)
        return self.process.returncode, said


def test_ranks_print_and_end_as_one(made: RayCluster) -> None:
    script = SAYS + "import time; time.sleep(3600 * (os.environ['RANK'] == '0')); sys.exit(3)"
    code, said = Started(made, script, "{rank0}", ranks=2).ends()
    printed = {tuple(line.split()) for line in said.splitlines() if line[:2] in ("0 ", "1 ")}
    assert {rank for rank, _ in printed} == {"0", "1"}
    assert len({address for _, address in printed}) == 1
    assert "{rank0}" not in said
    assert code == 3
    assert made.left("3600") == []


def test_what_can_not_start_is_said_in_a_sentence(made: RayCluster) -> None:
    code, said = Started(made, STAYS, runtime_env={"pip": ["asyncds-no-such-package"]}).ends()
    assert code == 1
    assert "run/part did not start on the cluster: " in said
    assert "Traceback" not in said.split("did not start")[0]


def test_a_signal_is_passed_on(made: RayCluster) -> None:
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); " + STAYS
    step = Started(made, script, "passed-on", environment={"NAME": "value"})
    step.reads("up")
    step.process.send_signal(signal.SIGTERM)
    assert step.ends()[0] == 7


def test_nothing_outlives_a_step_that_is_killed(made: RayCluster) -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '3599.5']); " + STAYS
    step = Started(made, script, "orphan")
    step.reads("up")
    assert made.processes(running="3599.5")
    step.process.kill()
    assert made.left("orphan") == []
    assert made.left("3599.5") == []


def test_what_there_is_no_room_for_is_waited_for(made: RayCluster) -> None:
    has = Started(made, STAYS, ranks=2)
    has.reads("up")
    waits = Started(made, "print('came')", ranks=2)
    waits.reads("waiting for 2 times CPU 1 on the cluster, which has CPU 0 free")
    has.process.terminate()
    has.ends()
    code, said = waits.ends()
    assert (code, said.count("came")) == (0, 2)


def test_what_waits_ends_when_it_is_told_to(made: RayCluster) -> None:
    waits = Started(made, STAYS, resources={"CPU": 64})
    waits.reads("waiting for CPU 64")
    waits.process.terminate()
    assert waits.ends()[0] == 128 + signal.SIGTERM


def test_machines_that_do_not_see_a_file_are_named(made: RayCluster, tmp_path: Path) -> None:
    def look(path: Path) -> Cluster:
        done = subprocess.run(
            python("asyncds.launch.ray_step", "look", made.address, "{}", str(path)),
            env=made.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cluster)

    assert {machine.problem for machine in look(tmp_path).machines} == {""}
    wrong = look(tmp_path / "nowhere" / "file").machines
    assert {m.problem for m in wrong} == {f"does not see the files in {tmp_path}/nowhere"}
    assert len(wrong) >= 2


def test_a_lost_node_is_said(made: RayCluster) -> None:
    step = Started(made, STAYS, "lost")
    step.reads("up")
    made.kill(str(made.node_of("lost")))
    code, said = step.ends()
    assert code == 1
    assert "ERROR __main__: lost with its machine" in said
