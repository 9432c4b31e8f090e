"""What test_training.py runs on every rank: ``training_worker.py JOBS.json OUT``.

A job is {"name", "do", "settings": of the learner, "engine": TrainingEngine's other arguments, …};
each writes OUT/<name>-<rank>.npz.
All jobs share one start-up of Python and DeepSpeed, which takes longer than most of them.
"""

import dataclasses
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from torch import Tensor

from asyncds.algo.sums import Sums
from asyncds.config.engines import LearnerConfig
from asyncds.engine import checkpoint, checkpoint_copy, checkpoint_writer
from asyncds.engine.checkpoint_owner import ReplacedError, take_over
from asyncds.engine.checkpoint_writer import CheckpointWriter
from asyncds.engine.training import NonFiniteError, TrainingEngine
from asyncds.protocol.batch import Bool, Int32, SequenceTable, Shard
from asyncds.protocol.spans import given_spans, sampled_mask

VOCABULARY = 100
PROBE = np.arange(3, 23, dtype=np.int32)
OWNER = "mine"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Twelve sequences in four groups, as a table and as token ids; the same in every process.

    sampled: which tokens of each completion were; an environment gave the others.
    """

    table: SequenceTable
    prompts: list[Int32]
    completions: list[Int32]
    sampled: list[Bool]

    def shard(self, rank: int) -> Shard:
        mine = np.flatnonzero(self.table.rank == rank).astype(np.int32)
        nothing = [np.empty(0, np.int32)]
        prompts = np.concatenate(nothing + [self.prompts[s] for s in mine])
        completions = np.concatenate(nothing + [self.completions[s] for s in mine])
        sampled = np.concatenate([np.empty(0, np.bool_), *(self.sampled[s] for s in mine)])
        return Shard(
            step=7,
            rank=rank,
            leases=[1, 2, 3, 4],
            table=self.table,
            generators=["g"],
            sequences=mine,
            prompt_ids=prompts,
            completion_ids=completions,
            logprobs=np.zeros(int(sampled.sum()), np.float32),
            versions=np.zeros(int(sampled.sum()), np.int32),
            given=given_spans(sampled),
        )


def make_batch(*, ranks: int) -> Batch:
    """Rank 0 owns most of it, so that the other ranks run out of work early."""
    rng = np.random.default_rng(0)
    n = 12
    group = np.repeat(np.arange(4), 3).astype(np.int32)
    prompts = [rng.integers(0, VOCABULARY, k).astype(np.int32) for k in rng.integers(2, 9, 4)]
    prompt_length = np.array([len(prompts[g]) for g in group], np.int32)
    length = rng.integers(1, 12, n).astype(np.int32)
    sampled = [rng.random(k) < 0.7 for k in length]
    for mask in sampled:
        mask[-1] = True
    table = SequenceTable(
        group=group,
        reward=rng.normal(size=n).astype(np.float32),
        correct=rng.random(n) > 0.5,
        prompt_length=prompt_length,
        length=length,
        sampled=np.array([mask.sum() for mask in sampled], np.int32),
        logprob_sum=np.zeros(n, np.float32),
        rank=np.where(np.arange(n) % 4 == 3, ranks - 1, 0).astype(np.int32),
        finished=np.ones(n, np.bool_),
        generator=np.zeros(n, np.int32),
    )
    return Batch(
        table,
        [prompts[g] for g in group],
        [rng.integers(0, VOCABULARY, k).astype(np.int32) for k in length],
        sampled,
    )


def token_loss(
    reward: Tensor,
    log_probs: Tensor,
    entropy: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
) -> Tensor:
    """A loss that depends on everything an objective is given."""
    ratio = (log_probs - old_log_probs).exp()
    distance = reference_log_probs - log_probs
    return -reward * ratio - 0.3 * entropy + 0.5 * (distance.exp() - distance - 1)


class Objective:
    def __init__(self, table: SequenceTable, *, poison: bool = False) -> None:
        self.reward = torch.from_numpy(table.reward)
        self.poison = poison

    def __call__(
        self, *, log_probs: Tensor, sequence: Tensor, token_index: Tensor, **others: Tensor
    ) -> tuple[Tensor, Sums]:
        per_token = token_loss(self.reward[sequence], log_probs, **others)
        factor = float("nan") if self.poison else 1.0
        return per_token.sum() * factor, Sums.of({"loss": per_token, "index": token_index})


def reference_for(shard: Shard) -> Any:
    """Made-up log-probs of a reference model, a function of the token alone."""
    sampled = sampled_mask(shard.given, len(shard.completion_ids))
    return -(4.0 + shard.completion_ids[sampled].astype(np.float32) / 50)


def update(engine: TrainingEngine, *, poison: bool = False) -> tuple[Any, dict[str, Any]]:
    """One update; returns its metrics and the full gradients just before the optimizer step."""
    batch = make_batch(ranks=engine.ranks)
    shard = batch.shard(engine.rank)
    gradients: dict[str, Any] = {}
    apply = engine.deepspeed.step

    def recorded() -> None:
        for name, parameter in engine.causal_lm.named_parameters():
            plain = engine.zero_stage == 0
            gradient = parameter.grad if plain else safe_get_full_grad(parameter)
            gradients[name] = gradient.float().cpu().numpy().copy()
        apply()

    engine.deepspeed.step = recorded
    try:
        metrics = engine.update(
            shard,
            Objective(batch.table, poison=poison),
            old_log_probs=engine.log_probs(shard),
            reference_log_probs=reference_for(shard),
            with_entropy=True,
        )
    finally:
        engine.deepspeed.step = apply
    return metrics, gradients


def do_update(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    log_probs = engine.log_probs(make_batch(ranks=engine.ranks).shard(engine.rank))
    metrics, gradients = update(engine)
    return {
        **{f"grad/{name}": gradient for name, gradient in gradients.items()},
        "log_probs": log_probs,
        "grad_norm": metrics.grad_norm,
        "clipped": metrics.clipped,
        "loss": metrics.loss,
        "tokens": metrics.tokens,
        "micro_batches": metrics.micro_batches,
        "mean_loss": metrics.sums.means()["loss"],
        "probe": engine.probe(PROBE),
    }


def do_minibatches(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    batch = make_batch(ranks=engine.ranks)
    shard = batch.shard(engine.rank)
    metrics = engine.update(
        shard,
        Objective(batch.table),
        minibatches=4,
        old_log_probs=engine.log_probs(shard),
        reference_log_probs=reference_for(shard),
        with_entropy=True,
    )
    return {
        "probe": engine.probe(PROBE),
        "steps": metrics.optimizer_steps,
        "grad_norm": metrics.grad_norm,
        "clipped": metrics.clipped,
        "micro_batches": metrics.micro_batches,
    }


def do_timers(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    shard = make_batch(ranks=engine.ranks).shard(engine.rank)
    metrics = engine.update(
        shard,
        Objective(make_batch(ranks=engine.ranks).table),
        minibatches=2,
        old_log_probs=engine.log_probs(shard),
        reference_log_probs=reference_for(shard),
        with_entropy=True,
    )
    return {
        **{f"theirs/{name}": value for name, value in metrics.deepspeed_seconds.items()},
        **{f"ours/{name}": value for name, value in metrics.seconds.items()},
    }


def do_poison(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """A gradient of NaN must change nothing."""
    before = engine.probe(PROBE)
    error = ""
    try:
        update(engine, poison=True)
    except NonFiniteError as caught:
        error = str(caught)
    untouched = bool((engine.probe(PROBE) == before).all())
    steps_before = engine.optimizer_steps
    update(engine)
    return {
        "error": error,
        "untouched": untouched,
        "steps_before": steps_before,
        "steps": engine.optimizer_steps,
        "learned": bool((engine.probe(PROBE) != before).any()),
    }


def do_reference(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """The reference stays what the policy was before it trained."""
    shard = make_batch(ranks=engine.ranks).shard(engine.rank)
    before = engine.log_probs(shard)
    update(engine)
    return {
        "policy_before": before,
        "policy": engine.log_probs(shard),
        "reference": engine.reference_log_probs(shard),
    }


def do_save(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    update(engine)
    exported = engine.probe(PROBE)
    _take_over(engine, Path(job["directory"]).parent)
    read: list[str] = []
    describe = checkpoint_writer.describe

    def describing(files: list[Path], *, below: Path) -> Any:
        read.extend(str(file.relative_to(below)) for file in files)
        return describe(files, below=below)

    checkpoint_writer.describe = describing
    directory = Path(job["directory"])
    writer, go_on = _writer(engine, directory.parent), threading.Event()
    _before(writer, "_place", lambda: go_on.wait(60))
    assert writer.begin(1, state={"version": 5}) is None
    lr = update(engine)[0].lr  # while nothing of the checkpoint is written
    probe = engine.probe(PROBE)
    early = writer.writing and not directory.exists()
    go_on.set()
    assert writer.wait() is None
    return {"exported": exported, "probe": probe, "lr": lr, "read": read, "early": early}


def _writer(engine: TrainingEngine, root: Path) -> CheckpointWriter:
    return CheckpointWriter(
        engine, root, owner=OWNER, longest_s=60.0, ended=lambda step, seconds, problem: None
    )


def _before(writer: CheckpointWriter, name: str, action: Callable[[], object]) -> None:
    """Have it do something before one of its methods."""
    method = getattr(writer, name)

    def after(*arguments: Any) -> Any:
        action()
        return method(*arguments)

    setattr(writer, name, after)


def _save(engine: TrainingEngine, root: Path, step: int) -> str:
    """Write a checkpoint; returns why it was not written, or ""."""
    writer = _writer(engine, root)
    problem = writer.begin(step, state={"step": step}) or writer.wait()
    return "" if problem is None else str(problem)


def _take_over(engine: TrainingEngine, root: Path) -> None:
    if engine.rank == 0:
        take_over(root, OWNER)
    dist.barrier()


def do_save_replaced(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """Another worker group takes over while a thread writes."""
    root = Path(job["directory"])
    take_over(root, OWNER)
    writer = _writer(engine, root)
    _before(writer, "_place", lambda: take_over(root, "another"))
    writer.begin(1, state={"step": 1})
    error = ""
    try:
        writer.wait()
    except ReplacedError as caught:
        error = str(caught)
    return {"error": error, "newest": str(checkpoint.newest(root))}


def do_save_without_memory(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """The machine is said to have no memory for a copy."""
    root = Path(job["directory"])
    _take_over(engine, root)
    writer = _writer(engine, root)
    free_memory = checkpoint_copy.free_memory
    checkpoint_copy.free_memory = lambda: 0
    problem = writer.begin(1, state={"step": 1})
    checkpoint_copy.free_memory = free_memory
    return {"written": problem is None and not writer.writing and (root / "step-1").is_dir()}


def do_save_without_room(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint, another that the disk has no room for, and that again with room. share: of
    the room that it takes, what there is. first: the one before it is out of sight."""
    root, first = Path(job["directory"]), engine.rank == 0
    ballast = root.with_name("ballast")
    _take_over(engine, root)
    _save(engine, root, 1)
    if first:
        files = [file for file in root.rglob("*") if file.is_file()]
        size = sum(file.stat().st_blocks * 512 for file in files)
        with ballast.open("wb") as opened:
            free = shutil.disk_usage(root).free
            os.posix_fallocate(opened.fileno(), 0, free - int(job["share"] * size))
        if job["first"]:
            # Nothing says how much room a checkpoint takes.
            shutil.move(root / "step-1", root.with_name("elsewhere"))
    dist.barrier()
    update(engine)
    error = _save(engine, root, 2)
    dist.barrier()
    left = sorted(path.name for path in root.iterdir() if path.name != "owner")
    newest = str(checkpoint.newest(root))
    dist.barrier()
    if first:
        ballast.unlink()
    _save(engine, root, 2)
    return {"error": error, "left": left, "before": newest, "after": str(checkpoint.newest(root))}


def do_load(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    state = checkpoint.load(engine, Path(job["directory"]))
    loaded = engine.probe(PROBE)
    steps = engine.optimizer_steps
    lr = update(engine)[0].lr
    return {
        "loaded": loaded,
        "probe": engine.probe(PROBE),
        "lr": lr,
        "steps": steps,
        "version": state["version"],
    }


def do_deadline(engine: TrainingEngine, job: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 stays away from the collectives until rank 0 has given up on it."""
    given_up = Path(job["directory"])
    if engine.rank == 1:
        end = time.monotonic() + 60
        while not given_up.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return {}
    try:
        update(engine)
    except RuntimeError as error:
        given_up.touch()
        return {"error": str(error)}
    return {"error": ""}


def main() -> None:
    torch.set_num_threads(1)
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for job in jobs:
        settings = LearnerConfig(**{"lr": 1e-3, "collective_seconds": 60, **job["settings"]})
        engine = TrainingEngine(
            settings, **{"dtype": "float32", "temperature": 1.0, "seed": 0, **job["engine"]}
        )
        result = globals()[f"do_{job['do']}"](engine, job)
        np.savez(out / f"{job['name']}-{engine.rank}.npz", **result)
        engine.close()


if __name__ == "__main__":
    main()
