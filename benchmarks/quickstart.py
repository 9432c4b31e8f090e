"""Runs the quickstart with DS-GRPO and with GRPO, and prints the table of docs/quickstart.md.

    python benchmarks/quickstart.py [seed …]

Wall time is that of the whole command. Memory is the largest sum, over the run's processes, of
proportional set sizes (shared pages are counted once), sampled twice a second.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from asyncds.telemetry.summary import read_summary

ALGORITHMS = ("ds_grpo", "grpo")


def main(seeds: list[int]) -> None:
    """Run all, print a row for each."""
    print("| run | Pass@1 | Pass@4 | Pass@16 | Pass@64 | distinct | lag | wall s | GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        for algorithm in ALGORITHMS:
            summary, wall, memory = run(algorithm, seed)
            base, result = summary["eval"][0], summary["eval"][-1]
            if algorithm == ALGORITHMS[0]:
                print(row(f"base (seed {seed})", base, "", "", ""), flush=True)
            lag, seconds = str(summary["lag"]["max"]), f"{wall:.0f}"
            print(row(algorithm, result, lag, seconds, f"{memory / 1e9:.1f}"), flush=True)


def run(algorithm: str, seed: int) -> tuple[dict[str, Any], float, float]:
    """(summary, wall seconds, peak bytes) of one quickstart."""
    name = f"bench-{algorithm}-{seed}"
    command = [sys.executable, "-m", "asyncds.cli.main", "run", "configs/quickstart.yaml"]
    command += ["--replace", f"name={name}", f"seed={seed}"]
    if algorithm != "ds_grpo":
        command.append(f"algorithm.advantage.kind={algorithm}")
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{name} failed with exit code {process.returncode}")
    summary = read_summary(Path("runs") / name / "summary.json")
    assert summary is not None
    return summary, time.monotonic() - started, peak


def memory_of(pid: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total
    return total


def row(name: str, evaluation: dict[str, Any], lag: str, wall: str, memory: str) -> str:
    """One line of the table; shares in percent."""
    passes = [f"{100 * evaluation['pass@k'][k]:.1f}" for k in ("1", "4", "16", "64")]
    cells = [name, *passes, f"{evaluation['distinct_correct']:.2f}", lag, wall, memory]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0])
