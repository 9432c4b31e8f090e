"""Measures the memory of learner ranks on this machine, beside what `asyncds plan` says of it.

    python benchmarks/learner_memory.py [--quick]

A random model of 64 million parameters takes two steps of two micro-batches, for every ZeRO stage,
on one rank and on two. Measured is the largest resident memory of rank 0 above what it had with
everything imported. The process returns freed memory at once, as PyTorch does on a GPU.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from asyncds.config.load import parse_config
from asyncds.config.schema import RunConfig
from asyncds.plan.families import model_shape
from asyncds.plan.gpus import main_memory
from asyncds.plan.learner import learner_memory
from asyncds.plan.load import load_of
from asyncds.plan.parts import total

FIELDS = {
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "use_sliding_window": False,
}
SHAPE = model_shape(FIELDS)
LABEL = "MEASURED "
MIB = 1 << 20
# Stages without bfloat16's second precision, few tokens; and float32, where activations count.
JOBS = [
    *[("bfloat16", ranks, stage, False, 16) for ranks in (1, 2) for stage in (1, 2, 3)],
    *[("float32", ranks, stage, False, 512) for ranks in (1, 2) for stage in (0, 1, 2, 3)],
    ("float32", 1, 1, False, 2048),
    ("float32", 1, 1, True, 2048),
]


def config_of(
    model: str, dtype: str, ranks: int, stage: int, recompute: bool, tokens: int
) -> RunConfig:
    """tokens: of a sequence; a micro-batch holds one."""
    # The bucket is as large as the model, so that all of it is written to and so is resident.
    zero = {"reduce_bucket_size": SHAPE.parameters}
    return parse_config(
        {
            "model": model,
            "dtype": dtype,
            "sampling": {"max_tokens": tokens - 8},
            "generator": {"max_model_len": tokens},
            "rollout": {"groups_per_step": 2 * ranks, "group_size": 1, "max_lag": 0},
            "learner": {
                "ranks": ranks,
                "zero_stage": stage,
                "micro_batch_tokens": 1,
                "logprob_chunk_tokens": 64,
                "gradient_checkpointing": recompute,
                "deepspeed": {"zero_optimization": zero} if stage else {},
            },
        }
    )


def planned(config: RunConfig) -> float:
    load = load_of(config, SHAPE)
    return total(learner_memory(config, SHAPE, load, main_memory(1 << 40), sends=False))


def measure(config: RunConfig, tokens: int) -> float:
    """The peak above what was there before the model, of this rank."""
    import torch
    import torch.distributed as dist

    from asyncds.algo.sums import Sums
    from asyncds.engine.process_group import join
    from asyncds.engine.training import TrainingEngine

    torch.set_num_threads(1)
    join(deadline_s=300)
    a = torch.randn(64, 64, requires_grad=True)
    (a @ a).sum().backward()
    gc.collect()
    before = resident("VmRSS")
    engine = TrainingEngine(
        config.learner,
        model=config.model,
        dtype=config.dtype,
        temperature=1.0,
        total_steps=2,
        seed=0,
    )
    shard = make_shard(engine.rank, engine.ranks, tokens)

    def loss(*, log_probs: torch.Tensor, **_: Any) -> tuple[torch.Tensor, Sums]:
        return -log_probs.sum(), Sums.of({"loss": -log_probs})

    engine.update(shard, loss, with_entropy=True)  # AdamW's moments are made in it
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    engine.update(shard, loss, with_entropy=True)
    peak = resident("VmHWM") - before
    dist.barrier()
    return peak


def resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def make_shard(rank: int, ranks: int, tokens: int) -> Any:
    from asyncds.protocol.batch import SequenceTable, Shard

    n, prompt = 2 * ranks, 8
    length = tokens - prompt
    table = SequenceTable(
        group=np.arange(n, dtype=np.int32),
        reward=np.ones(n, np.float32),
        correct=np.ones(n, np.bool_),
        prompt_length=np.full(n, prompt, np.int32),
        length=np.full(n, length, np.int32),
        sampled=np.full(n, length, np.int32),
        logprob_sum=np.zeros(n, np.float32),
        rank=(np.arange(n) % ranks).astype(np.int32),
        finished=np.ones(n, np.bool_),
        generator=np.zeros(n, np.int32),
    )
    mine = np.flatnonzero(table.rank == rank).astype(np.int32)
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, 2 * tokens).astype(np.int32)
    return Shard(
        step=1,
        rank=rank,
        leases=list(range(n)),
        table=table,
        generators=["g"],
        sequences=mine,
        prompt_ids=ids[: 2 * prompt],
        completion_ids=ids[: 2 * length],
        logprobs=np.zeros(2 * length, np.float32),
        versions=np.zeros(2 * length, np.int32),
    )


def run(model: Path, job: tuple[Any, ...]) -> float:
    """Measure a job in processes of its own."""
    launcher = [sys.executable]
    if job[1] > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={job[1]}"]
    # Large tensors are mapped by themselves, and unmapped when they are freed.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*launcher, __file__, "--worker", json.dumps([str(model), *job])],
        env={**os.environ, **at_once, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(LABEL):
            return float(line.removeprefix(LABEL))
    raise SystemExit(done.stderr[-2000:])


def rows(jobs: list[tuple[Any, ...]]) -> Iterator[str]:
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as directory:
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**FIELDS))
        made.save_pretrained(directory)
        del made
        for job in jobs:
            dtype, ranks, stage, recompute, tokens = job
            seen, said = run(Path(directory), job), planned(config_of(directory, *job))
            what = f"{dtype}, ZeRO {stage}, {ranks} rank{'s' * (ranks > 1)}, {tokens} tokens"
            what += ", recomputed" if recompute else ""
            yield f"| {what} | {seen / MIB:,.0f} | {said / MIB:,.0f} | {said / seen - 1:+.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one rank only")
    parser.add_argument("--worker", help="what a measured process does")
    options = parser.parse_args()
    if options.worker:
        model, *job = json.loads(options.worker)
        peak = measure(config_of(model, *job), job[-1])
        if os.environ.get("RANK", "0") == "0":
            print(f"{LABEL}{peak}", flush=True)
        return
    print("| run | measured, MiB | planned, MiB | error |\n|---|---:|---:|---:|")
    for row in rows([job for job in JOBS if not options.quick or job[1] == 1]):
        print(row, flush=True)


if __name__ == "__main__":
    main()
