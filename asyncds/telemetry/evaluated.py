"""Files that `asyncds eval` leaves: results of several tasks, pooled too, and the samples."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from asyncds.algo.passk import mean_pass_at_k
from asyncds.rollout.journal import Journal
from asyncds.rollout.lifecycle import Purpose
from asyncds.rollout.row_sets import set_of
from asyncds.telemetry.evaluations import Evaluation, evaluation_counts
from asyncds.telemetry.files import replace_file, to_json
from asyncds.telemetry.rollouts.read import read_rollout, tokenizer_of
from asyncds.telemetry.rollouts.texts import decoder
from asyncds.telemetry.summary import read_summary

RESULTS, SAMPLES = "results.json", "samples.jsonl"


def write_results(directory: Path, runs: Mapping[str, Path]) -> dict[str, Any]:
    """Write results.json into a directory, and return what is in it.

    runs: directories of finished evaluations without training, by the names of their tasks.

    `tasks` has the results of each (as in `summary.json`, one for each temperature), `pooled` those
    over the problems of all tasks together, where there are several: Pass@k for the k that all
    have. `versions` and `hardware` are those of the first.
    """
    summaries = {name: read_summary(run / "summary.json") or {} for name, run in runs.items()}
    first = next(iter(runs))
    results = {
        "model": yaml.safe_load((runs[first] / "config.yaml").read_text("utf-8"))["model"],
        "tasks": {name: summary["eval"] for name, summary in summaries.items()},
        "pooled": _pooled(runs, summaries) if len(runs) > 1 else [],
        "versions": summaries[first]["versions"],
        "hardware": summaries[first]["hardware"],
    }
    replace_file(directory / RESULTS, to_json(results, indent=2) + "\n")
    return results


def _pooled(runs: Mapping[str, Path], summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    by_temperature: dict[float, dict[str, Evaluation]] = {}
    for name, summary in summaries.items():
        for result in summary["eval"]:
            by_temperature.setdefault(result["temperature"], {})[name] = result
    pooled = []
    for temperature, results in by_temperature.items():
        _, n, c = (
            np.concatenate(columns)
            for columns in zip(
                *(evaluation_counts(runs[x], evaluation=r["id"]) for x, r in results.items()),
                strict=True,
            )
        )
        shared = set.intersection(*(set(result["pass@k"]) for result in results.values()))
        ks = [k for k in sorted(map(int, shared)) if k <= min(n, default=0)]
        found = mean_pass_at_k(n, c, ks) if ks else {}
        pooled.append(
            {
                "temperature": temperature,
                "tasks": list(results),
                "n_problems": len(n),
                "n_samples": min(result["n_samples"] for result in results.values()),
                "pass@k": {str(k): estimate.mean for k, estimate in found.items()},
                "pass@k_interval": {str(k): [e.low, e.high] for k, e in found.items()},
            }
        )
    return pooled


def write_samples(run_dir: Path) -> Path:
    """Write samples.jsonl into a run directory: a line for each problem of each evaluation.

    Many samples are in several lines, in parts as they were leased.
    That is its set and prompt, and of each sample the text, the answer, the reward, what the reward
    is made of, and whether it is correct and ended by itself.
    """
    path = run_dir / SAMPLES
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for line in _samples(run_dir):
            file.write(to_json(line) + "\n")
    os.replace(partial, path)
    return path


def _samples(run_dir: Path) -> Iterator[dict[str, Any]]:
    decode = decoder(tokenizer_of(yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))))
    with closing(Journal(run_dir / "journal.db", read_only=True)) as journal:
        sets = journal.row_sets().get(Purpose.EVAL, [])
        for evaluation in journal.evaluations():
            for group in journal.groups(evaluation=evaluation.id):
                rollout = read_rollout(group, decode)
                yield {
                    "evaluation": evaluation.id,
                    "step": evaluation.step,
                    "temperature": evaluation.temperature,
                    "set": set_of(sets, group.row),
                    "row": group.row,
                    "prompt": rollout.prompt,
                    "n": group.n,
                    "n_correct": group.n_correct,
                    "samples": [
                        {
                            "text": sample.text,
                            "answer": sample.answer,
                            "reward": sample.reward,
                            "parts": sample.parts,
                            "correct": sample.correct,
                            "finished": sample.finished,
                        }
                        for sample in rollout.completions
                    ],
                }
