"""Machines of a Slurm job, with stand-ins for Slurm's commands (mocked: they run things here).

tests/slurm has a run on a real Slurm.
"""

import os
import subprocess
from pathlib import Path

import pytest

from asyncds.config.load import load_config
from asyncds.config.schema import RunConfig
from asyncds.launch.errors import UserError
from asyncds.launch.nodes import Node, Place
from asyncds.launch.slurm import SlurmSite

SCONTROL = """#!/bin/sh
case "$*" in
"show hostnames a,b,c") printf 'a\\nb\\nc\\n' ;;
"--oneliner show node a") echo "NodeName=a Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=a" ;;
"--oneliner show node b") echo "NodeName=b NodeAddr=10.0.0.2" ;;
"--oneliner show node c") echo "NodeName=c NodeAddr=c.example" ;;
*) echo "slurm_load_node error: Invalid node name" >&2; exit 1 ;;
esac
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
for node in $SEEN_ON; do SLURMD_NODENAME=$node SLURM_PROCID=1 "$@" || exit $?; done
"""
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "a,b,c",
    "SLURMD_NODENAME": "b",
    "SLURM_GPUS_ON_NODE": "2",
}
CONFIG = Path(__file__).parents[3] / "configs" / "quickstart.yaml"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN_ON", "a b c")


def config(tmp_path: Path, *settings: str) -> RunConfig:
    return load_config(CONFIG, [f"runs_dir={tmp_path / 'runs'}", *settings])


@pytest.mark.usefixtures("slurm")
def test_this_machine_is_the_first() -> None:
    nodes = SlurmSite(JOB).nodes
    assert [(node.name, node.address) for node in nodes] == [
        ("b", "10.0.0.2"),
        ("a", "10.0.0.1"),
        ("c", "c.example"),
    ]
    assert nodes[0].devices == ("0", "1")


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SLURM_JOB_ID": ""}, "not a Slurm job"),
        ({"SLURMD_NODENAME": "login"}, r"login is not one of the machines of the job \(a, b, c\)"),
        ({"SLURM_JOB_NODELIST": "x"}, "scontrol show hostnames .* exit code 1.*Invalid node name"),
    ],
)
def test_not_in_a_job(change: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SlurmSite(JOB | change)


@pytest.mark.usefixtures("slurm")
def test_a_step_runs_the_command_where_it_was_placed() -> None:
    place = Place(node=Node(name="a", address="10.0.0.1"))
    command = SlurmSite(JOB).command(
        [place], ["sh", "-c", 'echo "rank $PET_NODE_RANK $0"; exit 3', "two words"], name="learner"
    )
    assert "--nodelist=a" in command
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"SEEN_ON": "a"}
    )
    assert (done.stdout, done.returncode) == ("rank 1 two words\n", 3)


@pytest.mark.usefixtures("slurm")
def test_a_run_is_told_where_it_is(tmp_path: Path) -> None:
    site = SlurmSite(JOB)
    run = config(tmp_path, "learner.ranks=4", "generator.replicas=2")
    run = site.prepared(run)
    assert (run.coordinator.host, run.weights.host) == ("10.0.0.2", "10.0.0.2")
    assert run.coordinator.curve is not None
    assert Path(run.coordinator.curve.client_secret).stat().st_mode & 0o077 == 0
    again = site.prepared(run)
    assert again.coordinator.curve == run.coordinator.curve
    coordinator, learner, *generators = site.children(run, port=5555)
    assert "srun" not in coordinator.command
    assert learner.command[0] == "srun"
    assert "--nodelist=b,a" in learner.command
    assert {"--nnodes=2", "--nproc-per-node=2", "--master-addr=10.0.0.2"} <= set(learner.command)
    assert "CUDA_VISIBLE_DEVICES=0,1" in learner.command
    assert ["--nodelist=c" in child.command for child in generators] == [True, True]
    assert ["CUDA_VISIBLE_DEVICES=1" in child.command for child in generators] == [False, True]


@pytest.mark.usefixtures("slurm")
def test_a_directory_that_not_all_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN_ON", "b")
    with pytest.raises(UserError, match=r"a, c don't see the files in .*runs\nset runs_dir"):
        SlurmSite(JOB).prepared(config(tmp_path))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.usefixtures("slurm")
def test_too_few_gpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generator.replicas is 6: lower it"):
        SlurmSite(JOB).prepared(config(tmp_path, "generator.replicas=6"))
