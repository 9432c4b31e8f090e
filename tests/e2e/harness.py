"""Starting `asyncds run` and looking at what it leaves behind."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from tests.support.paths import ROOT

RUN_SECONDS = 240


def free_ports(n: int) -> int:
    """The first of n neighbours on loopback that nobody listens on."""
    for first in range(23450, 24450, n):
        try:
            with ExitStack() as sockets:
                for port in range(first, first + n):
                    sockets.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@dataclass
class Result:
    """A run that ended."""

    code: int
    output: str
    directory: Path

    @property
    def summary(self) -> dict[str, Any]:
        summary = read_summary(self.directory / "summary.json")
        assert summary is not None, self.output
        return summary

    @property
    def lines(self) -> list[dict[str, Any]]:
        return read_run_log(self.directory / "metrics.jsonl")

    def log(self, role: str) -> str:
        return (self.directory / "logs" / f"{role}.log").read_text()


@dataclass
class Runner:
    """Starts `asyncds run` on the quickstart's configuration, or another, made small."""

    root: Path
    model: Path
    small: list[str] = field(
        default_factory=lambda: [
            "steps=8",
            "eval.n_problems=16",
            "eval.n_samples=8",
            "eval.interim_samples=8",
            "eval.every=0",
            "rollout.groups_per_step=8",
            "rollout.group_size=4",
            "checkpoint.every=4",
            "generator.max_num_seqs=64",
        ]
    )

    def command(self, name: str, *overrides: str, config: str = "quickstart.yaml") -> list[str]:
        return [
            *self.asyncds("run", str(ROOT / "configs" / config)),
            *(f"name={name}", f"runs_dir={self.root}", f"model={self.model}"),
            *self.small,
            *overrides,
        ]

    def asyncds(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "asyncds.cli.main", *arguments]

    def start(
        self, *command: str, output: IO[str] | int = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        environment = os.environ | {"COLUMNS": "120"}
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=self.root,
        )

    def finish(self, process: "subprocess.Popen[str]", name: str) -> Result:
        try:
            output, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate(timeout=60)
            pytest.fail(f"{name} did not end within {RUN_SECONDS} s:\n{output}")
        return Result(process.returncode, output, self.root / name)

    def __call__(self, name: str, *overrides: str) -> Result:
        return self.finish(self.start(*self.command(name, *overrides)), name)

    def resume(self, name: str, *overrides: str) -> Result:
        command = self.asyncds("run", "--resume", str(self.root / name), *overrides)
        return self.finish(self.start(*command), name)
