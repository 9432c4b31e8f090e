"""What runs in the pods of a role: its command, its probes, its keys, and how it is ended."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.helm_chart import CHART, each_example, example, one, pod_specs, render


@each_example
def test_every_role_has_probes_on_the_port_of_its_metrics(values: Path) -> None:
    roles = set()
    for o in render(values):
        for spec in pod_specs(o):
            main = spec["containers"][0]
            if main["name"] not in ("coordinator", "learner", "generator"):
                continue
            if main["command"][-1] == "engine-worker":
                assert "readinessProbe" not in main
                continue
            roles.add(main["name"])
            assert main["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
            startup = main["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
            assert main["livenessProbe"]["exec"]["command"][-1].endswith("probe.sh")
            (port,) = [p["containerPort"] for p in main["ports"] if p["name"] == "metrics"]
            assert {"name": "METRICS_PORT", "value": str(port)} in main["env"]
            assert spec["initContainers"][0]["name"] == "check-config"
    assert roles == {"coordinator", "learner", "generator"}


def role(
    tmp_path: Path, name: str, env: dict[str, str], stub: str
) -> subprocess.CompletedProcess[str]:
    """role.sh with stubs for asyncds and torchrun, which print what they are called with."""
    for command in ("asyncds", "torchrun"):
        (tmp_path / command).write_text(f'#!/bin/sh\necho {command} "$@"\n{stub}\n')
        (tmp_path / command).chmod(0o755)
    script = (CHART / "files/role.sh").read_text().replace("/tmp/", f"{tmp_path}/")
    return subprocess.run(
        ["sh", "-c", script, "role.sh", name, "a.b=1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CONFIG": "c.yaml", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_roles_metrics_have_the_same_port_in_every_pod(tmp_path: Path) -> None:
    """Mocked: the processes. A process takes telemetry.port and its place."""
    learner = role(
        tmp_path,
        "learner",
        {"METRICS_PORT": "9400", "POD_NAME": "trial-learner-0a1b2c-3", "SERVICE": "trial-learner",
         "NODES": "4", "PROCESSES": "8", "MASTER_PORT": "1", "POD_IP": "10.0.0.7"},
        "exit 3",
    )  # fmt: skip
    assert learner.returncode == 3
    assert "--node-rank 3" in learner.stdout
    assert "--master-addr trial-learner-0a1b2c-0.trial-learner " in learner.stdout
    assert "weights.host=10.0.0.7" in learner.stdout
    (port,) = re.findall(r"telemetry\.port=(\d+)", learner.stdout)
    assert int(port) + 1 + 3 * 8 == 9400
    generator = role(
        tmp_path, "generator", {"METRICS_PORT": "9400", "RANKS": "32", "POD_NAME": "g"}, "exit 0"
    )
    assert generator.returncode == 0
    (port,) = re.findall(r"telemetry\.port=(\d+)", generator.stdout)
    assert int(port) + 1 + 32 == 9400
    assert generator.stdout.startswith("asyncds generator --name g c.yaml")


def test_a_jobsets_pods_find_the_first_by_the_jobsets_name(tmp_path: Path) -> None:
    """Mocked: the processes. Their host's name, with the node's network, is the node's."""
    learner = role(
        tmp_path,
        "learner",
        {"METRICS_PORT": "9400", "HOSTNAME": "gpu-node-7", "POD_NAME": "trial-learner-x-3-k2",
         "JOBSET": "trial-learner-x", "JOB_COMPLETION_INDEX": "3", "NODES": "4", "PROCESSES": "8",
         "MASTER_PORT": "1", "POD_IP": "10.0.0.7"},
        "exit 0",
    )  # fmt: skip
    assert "--node-rank 3" in learner.stdout
    assert "--master-addr trial-learner-x-node-0-0.trial-learner-x " in learner.stdout


def test_a_generator_whose_run_is_over_ends_or_waits(tmp_path: Path) -> None:
    """Mocked: the generator, and waiting."""
    env = {"METRICS_PORT": "9400", "RANKS": "1", "POD_NAME": "g"}
    (tmp_path / "sleep").write_text("#!/bin/sh\nkill -TERM $PPID\n")
    (tmp_path / "sleep").chmod(0o755)
    ended = role(tmp_path, "generator", env, "exit 0")
    assert ended.returncode == 0
    assert not (tmp_path / "over").exists()
    held = role(tmp_path, "generator", env | {"HOLD": "1"}, "exit 0")
    assert held.returncode == 0
    assert (tmp_path / "over").exists()
    failed = role(tmp_path, "generator", env | {"HOLD": "1"}, "exit 1")
    assert failed.returncode == 1
    assert not (tmp_path / "over").exists()


def test_a_signal_reaches_the_process_and_ends_the_pod(tmp_path: Path) -> None:
    """Mocked: the generator, which leaves in good order when it is told to."""
    env = {"METRICS_PORT": "9400", "RANKS": "1", "POD_NAME": "g", "HOLD": "1"}
    stub = "trap 'echo leaving; exit 0' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.05; done"
    done = role(tmp_path, "generator", env, stub)
    assert "leaving" in done.stdout
    assert done.returncode == 143, "0 would say that the run is over"
    assert not (tmp_path / "over").exists()


def test_a_real_coordinator_starts_answers_its_probe_and_is_killed_by_its_hook(
    tmp_path: Path,
) -> None:
    objects = render(example("cpu-demo"))
    (spec,) = pod_specs(one(objects, "StatefulSet", "coordinator"))
    config = tmp_path / "config.yaml"
    config.write_text(one(objects, "ConfigMap", "-config")["data"]["config.yaml"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    here = {
        name: body.replace("/tmp/", f"{tmp_path}/")
        for name, body in (
            ("role", (CHART / "files/role.sh").read_text()),
            ("probe", (CHART / "files/probe.sh").read_text()),
            ("hook", hook),
        )
    }
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONFIG": str(config),
        "METRICS_PORT": str(port),
    }

    def shell(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["sh", "-c", here[name], name, *arguments]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    overrides = (f"runs_dir={tmp_path}", f"telemetry.port={port}", "coordinator.port=0")
    with shell("role", "coordinator", *overrides) as pod:
        try:
            assert pod.stderr is not None
            log = ""
            while "control plane at tcp://0.0.0.0" not in log:
                line = pod.stderr.readline()
                assert line, f"it ended: {log}"
                log += line
            with shell("probe") as probe:
                _, why = probe.communicate(timeout=30)
            assert probe.returncode == 0, why
            with shell("hook") as killing:
                assert killing.wait(timeout=30) == 0
            assert pod.wait(timeout=30) == 128 + signal.SIGKILL
        finally:
            if pod.poll() is None:
                with shell("hook") as killing:
                    killing.wait(timeout=30)
    assert (tmp_path / "trial/journal.db").exists()
    with shell("probe") as probe:
        probe.communicate(timeout=30)
    assert probe.returncode != 0


def test_keys_of_a_role_are_mounted_for_it_alone() -> None:
    objects = render(example("8x8"))
    for kind, name, files in (
        ("StatefulSet", "coordinator", {"server.key_secret"}),
        ("JobSet", "learner", {"server.key", "learner.key_secret"}),
        ("Deployment", "generator", {"server.key", "generator.key_secret"}),
    ):
        (spec,) = pod_specs(one(objects, kind, name))
        volumes = {v["name"]: v for v in spec["volumes"]}
        secret = volumes["keys"]["secret"]
        assert {item["key"] for item in secret["items"]} == files
        assert secret["defaultMode"] == 0o440
        assert ("clients" in volumes) == (name == "coordinator")


def test_the_coordinator_is_killed_and_not_told_to_stop() -> None:
    (spec,) = pod_specs(one(render(example("8x8")), "StatefulSet", "coordinator"))
    assert "kill -KILL" in spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
