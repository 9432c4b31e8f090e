"""A run directory as a finished run leaves it, written through the real journal and writers."""

import json
import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from asyncds.config.load import dump_config, parse_config
from asyncds.protocol.codec import GroupArrays, encode, pack_group
from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import RunLog
from asyncds.telemetry.summary import Summary, percentiles, write_summary
from tests.support.records import evaluation_record, step_record

WORDS = [*map(str, range(100)), *"+-*/()=:", "<script>alert(1)</script>", "&amp;", "<eos>"]
GROUP = 8
MAX_LAG = 4
TEMPERATURES = (1.0, 0.6)


def make_model(directory: Path, *, vocab_size: int = len(WORDS), words: list[str] = WORDS) -> Path:
    """A model directory as far as local checks look: config, tokenizer, weights of no use."""
    directory.mkdir(parents=True)
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    config: dict[str, object] = {
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "max_position_embeddings": 256,
    }
    config["dtype"] = "float32"
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"{}")
    return directory


def make_run(root: Path, *, steps: int = 60, finished: bool = True, hostile: bool = False) -> Path:
    """`root/runs/quickstart`, with its model in `root/models/tiny-countdown`."""
    model = make_model(root / "models" / "tiny-countdown")
    run = root / "runs" / "quickstart"
    run.mkdir(parents=True)
    config = parse_config(
        {
            "name": "quickstart",
            "model": str(model),
            "runs_dir": str(run.parent),
            "steps": steps,
            "eval": {"every": 20, "temperatures": TEMPERATURES},
            "rollout": {"groups_per_step": 2, "group_size": GROUP, "max_lag": MAX_LAG},
        }
    )
    (run / "config.yaml").write_text(dump_config(config))
    rng = np.random.default_rng(0)
    journal = Journal(run / "journal.db")
    with journal.transaction():
        journal.set_row_sets(train=[], evaluated=[("AIME", 4), ("MATH", 8)])
        evaluations = [
            id
            for at in range(0, steps + 1, 20)
            for id in _evaluate(journal, rng, at, steps, hostile)
        ]
        for step in range(steps):
            _train(journal, rng, step, steps)
    evals = journal.evaluations()
    totals = journal.totals()
    lines = [_line(rng, step, steps) for step in range(1, steps + 1)]
    with journal.transaction():
        for line in lines:
            journal.add_step(step_record(line))
    journal.close()
    RunLog(run / "metrics.jsonl", lines=lines).close()
    if finished:
        write_summary(
            run / "summary.json",
            Summary(
                status="finished",
                steps=steps,
                policy_version=steps,
                wall_seconds=1.1 * steps,
                groups_trained=int(totals["trained"]),
                groups_delivered=int(totals["delivered"]),
                groups_dropped={"stale": 1},
                tokens_generated=int(totals["tokens_generated"]),
                tokens_trained=int(totals["tokens_trained"]),
                tokens_per_second=totals["tokens_trained"] / (1.1 * steps),
                learner_idle_fraction=0.31,
                generator_pause_fraction=0.08,
                weight_sync_seconds=percentiles([0.2, 0.21, 0.25]),
                lag={"mean": totals["lag_mean"], "max": totals["lag_max"]},
                diagnostics={"ess": {"mean": 0.97, "min": 0.9, "max": 1.0}},
                eval=[e.result() for e in evals],
            ),
        )
    assert len(evaluations) == len(evals)
    return run


def _skill(step: int, steps: int) -> float:
    return 0.16 + 0.3 * (1 - math.exp(-4 * step / steps))


def _group(rng: np.random.Generator, share: float, version: int, hostile: bool) -> GroupArrays:
    numbers = sorted(int(n) for n in rng.integers(1, 11, size=3))
    a, b, c = map(str, numbers)
    words = [a, b, c, "=", str(sum(numbers)), ":"]
    right = [[a, "+", b, "+", c], [c, "+", "(", a, "+", b, ")"], [b, "+", c, "+", a]]
    wrong = [[a, "*", b, "+", c], [a, "-", b, "*", c], [c, "*", "(", a, "+", b, ")"]]
    if hostile:
        wrong = [["<script>alert(1)</script>", "&amp;"]]
    correct = rng.random(GROUP) < share
    texts = [(right if ok else wrong)[int(rng.integers(3 if ok else len(wrong)))] for ok in correct]
    ids = [[WORDS.index(w) for w in [*text, "<eos>"]] for text in texts]
    lengths = [len(i) for i in ids]
    total = sum(lengths)
    return GroupArrays(
        prompt_ids=np.array([WORDS.index(w) for w in words], np.int32),
        lengths=np.array(lengths, np.int32),
        completion_ids=np.array([i for one in ids for i in one], np.int32),
        logprobs=-rng.exponential(0.5, total).astype(np.float32),
        versions=np.full(total, version, np.int32),
        rewards=correct.astype(np.float32),
        correct=correct,
        finished=np.ones(GROUP, np.bool_),
        answers={
            "written": [" ".join(text) for text in texts],
            "commutative": [" ".join(sorted(text)) for text in texts],
        },
    )


def _deliver(journal: Journal, lease: int, arrays: GroupArrays) -> None:
    journal.deliver(
        lease=lease,
        generator="generator-0",
        oldest=int(arrays.versions.min()),
        newest=int(arrays.versions.max()),
        n=len(arrays.lengths),
        n_correct=int(arrays.correct.sum()),
        reward=float(arrays.rewards.mean()),
        tokens=int(arrays.lengths.sum()),
        payload=encode(pack_group(arrays)),
    )


def _evaluate(
    journal: Journal, rng: np.random.Generator, step: int, steps: int, hostile: bool
) -> list[int]:
    """At two temperatures; base and result with more samples than the others."""
    ids = []
    for temperature in TEMPERATURES:
        n_samples = 64 if step in (0, steps) else 16
        evaluation = journal.add_evaluation(version=step, step=step, n_samples=n_samples)
        share = _skill(step, steps) / temperature**0.5
        for row in range(12):
            lease = journal.next_lease_id()
            journal.add_lease(id=lease, purpose="eval", row=row, attempt=1, evaluation=evaluation)
            # The same problem at every evaluation.
            _deliver(journal, lease, _group(np.random.default_rng(row), share, step, hostile))
        sets = {
            name: evaluation_record(0, _result(step, steps, n_samples, temperature, part * share))
            for name, part in (("AIME", 0.5), ("MATH", 1.25))
        }
        result = _result(step, steps, n_samples, temperature, share) | {
            "sets": {name: record.result() for name, record in sets.items()},
            "n_failed": int(step == steps),
            "failure": "a prompt of 300 tokens" if step == steps else "",
        }
        journal.finish_evaluation(evaluation_record(evaluation, result))
        ids.append(evaluation)
    return ids


def _result(
    step: int, steps: int, n_samples: int, temperature: float, share: float
) -> dict[str, object]:
    """Of the shape of a real one; the numbers are made up."""
    chances = {k: 1 - (1 - share) ** (k**0.7) for k in (1, 4, 16, 64) if k <= n_samples}
    distinct = (5.05 - 2 * step / steps) * (n_samples / 64) ** 0.3
    return {
        "version": step,
        "step": step,
        "split": "eval",
        "temperature": temperature,
        "n_samples": n_samples,
        "n_problems": 12,
        "pass@k": {str(k): p for k, p in chances.items()},
        "pass@k_interval": {
            str(k): [max(0, p - 0.06), min(1, p + 0.04)] for k, p in chances.items()
        },
        "equivalence": "written",
        "distinct_correct": distinct,
        "distinct_correct_interval": [distinct - 0.3, distinct + 0.3],
        "distinct": {"written": distinct, "commutative": 0.6 * distinct},
        "solution_multiplicity": 5.8,
        "multiplicity": {"written": 5.8, "commutative": 2.9},
        "top_share": 0.4,
        "self_overlap": 0.3 + 0.3 * step / steps,
        "normalised_variance": 0.02 + 0.05 * step / steps / temperature,
        "entropy": 0.5,
        "n_defined": {"top_share": 11, "self_overlap": 10, "normalised_variance": 9, "entropy": 12},
    }


def _train(journal: Journal, rng: np.random.Generator, step: int, steps: int) -> None:
    leases = []
    for row in (2 * step, 2 * step + 1):
        lease = journal.next_lease_id()
        journal.add_lease(id=lease, purpose="train", row=row, attempt=1, evaluation=None)
        journal.granted(lease, "generator-0", 1)
        version = max(0, step - int(rng.integers(0, 3)))
        _deliver(journal, lease, _group(rng, _skill(step, steps), version, False))
        leases.append(lease)
    journal.batch(step, step, leases)
    journal.consume(step)


def _line(rng: np.random.Generator, step: int, steps: int) -> dict[str, float | int | None]:
    skill = _skill(step, steps) + float(rng.normal(0, 0.03))
    return {
        "step": step,
        "version": step,
        "wall_seconds": 1.1 * step,
        "reward": skill,
        "correct": skill * 0.97,
        "distinct_correct": 2.4 - step / steps,
        "distinct/written": 2.4 - step / steps,
        "distinct/commutative": 1.8 - 0.7 * step / steps,
        "top_share": 0.5 + 0.2 * step / steps,
        "self_overlap": 0.4 + 0.3 * step / steps,
        "lag_mean": 1.1 + float(rng.normal(0, 0.1)),
        "lag_max": int(rng.integers(1, 4)),
        "tokens_per_second": 1500 + float(rng.normal(0, 100)),
        "generated_tokens_per_second": 1700 + float(rng.normal(0, 150)),
        "sync_seconds": abs(float(rng.normal(0.2, 0.03))),
        "pause_seconds": abs(float(rng.normal(0.08, 0.01))),
        "learner/entropy": 0.7 - 0.35 * step / steps,
        "learner/mismatch_kl": 0.004 + abs(float(rng.normal(0, 0.001))),
        **{f"learner/mismatch_kl/lag={i}": 0.002 * (1 + i) for i in range(3)},
        **{f"learner/ess/lag={i}": 1 - 0.05 * i for i in range(3)},
        "learner/mismatch_kl/generator=generator-0": 0.004,
        "learner/ess": 0.95,
        "learner/ratio/p01": 0.7,
        "learner/ratio/p50": 1.0,
        "learner/ratio/p99": 1.4,
        "learner/entropy_correct": 0.6 - 0.35 * step / steps,
        "learner/entropy_incorrect": 0.8 - 0.35 * step / steps,
        "learner/kl": math.nan,
        "learner/grad_norm": 0.8 + abs(float(rng.normal(0, 0.1))),
        "learner/ds_shift_correct": 0.9 - 0.3 * step / steps,
        "learner/ds_shift_incorrect": -0.05,
        "learner/seconds_wait": 0.3 + float(rng.normal(0, 0.05)),
        "learner/seconds_total": 1.1,
    }
