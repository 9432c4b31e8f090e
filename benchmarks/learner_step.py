"""Measures an update of the learner beside the same in plain PyTorch, and with prompts shared.

    python -m benchmarks.learner_step [--repeats 5] [--threads 1]

A batch of groups of 8 through forward, backward and optimizer step of a random model. Plain is
what a person would write: right-padded micro-batches of the same budget, longest first, the same
chosen positions projected, AdamW. The sides take turns; the first update of each is left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from asyncds.algo.sums import Sums
from asyncds.config.engines import LearnerConfig
from asyncds.engine.micro_batches import ShardIndex, plan_micro_batches
from asyncds.engine.training import TrainingEngine
from asyncds.protocol.batch import SequenceTable, Shard
from asyncds.tiny.model import save_untrained
from benchmarks.measured import Row, save

SIZE, BUDGET, VOCABULARY = 8, 16384, 100
CASES = {
    "32 groups, prompts of 7 tokens, completions of 4 to 8": (32, 7, 4, 8),
    "32 groups, prompts of 20 tokens, completions of 16 to 480": (32, 20, 16, 480),
    "8 groups, prompts of 1,024 tokens, completions of 32 to 256": (8, 1024, 32, 256),
}


def make_shard(groups: int, prompt: int, shortest: int, longest: int) -> Shard:
    """A batch of random tokens, all of one rank."""
    rng = np.random.default_rng(0)
    n = groups * SIZE
    lengths = rng.integers(shortest, longest + 1, n).astype(np.int32)
    prompts = [rng.integers(0, VOCABULARY, prompt).astype(np.int32) for _ in range(groups)]
    tokens = int(lengths.sum())
    return Shard(
        step=0,
        rank=0,
        leases=list(range(groups)),
        table=SequenceTable(
            group=np.repeat(np.arange(groups, dtype=np.int32), SIZE),
            reward=np.zeros(n, np.float32),
            correct=np.zeros(n, np.bool_),
            prompt_length=np.full(n, prompt, np.int32),
            length=lengths,
            sampled=lengths,
            logprob_sum=np.zeros(n, np.float32),
            rank=np.zeros(n, np.int32),
            finished=np.ones(n, np.bool_),
            generator=np.zeros(n, np.int32),
        ),
        generators=["benchmark"],
        sequences=np.arange(n, dtype=np.int32),
        prompt_ids=np.concatenate([prompts[i // SIZE] for i in range(n)]),
        completion_ids=rng.integers(0, VOCABULARY, tokens).astype(np.int32),
        logprobs=np.zeros(tokens, np.float32),
        versions=np.zeros(tokens, np.int32),
    )


def loss(*, log_probs: Tensor, **_: object) -> tuple[Tensor, Sums]:
    """Minus the log-likelihood."""
    return -log_probs.sum(), Sums.of({"nll": -log_probs})


def plain(model: torch.nn.Module, optimizer: torch.optim.Optimizer, shard: Shard) -> None:
    """One update as a person would write it."""
    index, table = ShardIndex(shard), shard.table
    everything = np.arange(len(table), dtype=np.int32)
    [plan] = plan_micro_batches(table, everything, ranks=1, token_budget=BUDGET)
    for members in plan:
        batch = index.assemble(members)
        ids, row, column, targets = map(
            torch.from_numpy, (batch.input_ids, batch.row, batch.column, batch.targets)
        )
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[row, column]
        log_p = torch.log_softmax(model.lm_head(hidden).float(), dim=1)
        total = -log_p.gather(1, targets[:, None]).sum()
        (total / len(shard.completion_ids)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "model"
        save_untrained(source)
        rows = [row for case in CASES for row in measure(case, source, options.repeats)]
    save("learner_step", rows)


def measure(case: str, source: Path, repeats: int) -> list[Row]:
    """Milliseconds of an update of every side."""
    shard = make_shard(*CASES[case])
    sides: dict[str, Callable[[], object]] = {}
    for name, shares in (("asyncds", True), ("asyncds, prompts not shared", False)):
        settings = LearnerConfig(share_prompts=shares, micro_batch_tokens=BUDGET)
        engine = TrainingEngine(
            settings, model=source, dtype="float32", temperature=1.0, total_steps=1000, seed=0
        )
        sides[name] = lambda engine=engine: engine.update(shard, loss)  # type: ignore[misc]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    sides["plain PyTorch"] = lambda: plain(model, optimizer, shard)
    values: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, update in sides.items():
            started = time.perf_counter()
            update()
            if repeat:
                values[name].append(1000 * (time.perf_counter() - started))
    return [
        Row(case=case, side=name, values=some, unit="ms", better="lower")
        for name, some in values.items()
    ]


if __name__ == "__main__":
    main()
