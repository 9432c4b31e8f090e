"""What must be true of a run that ended, read from the files it left behind.

Every check returns sentences, one for each thing that is wrong.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asyncds.config.schema import RunConfig
from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.run_log import read_run_log

ON_POLICY_KL = 1e-6
"""Largest KL divergence, nats, of a generator's policy and the learner's at equal weights."""
LOG_PROB_TOLERANCE = 1e-3
"""Largest mean difference, nats, of log-probabilities of equal weights in two libraries."""
_TOKENS = "learner/tokens/lag="
ENDED = ("committed", "evicted", "failed")


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a run of `steps` batches left behind."""

    config: RunConfig
    run_dir: Path
    journal: Journal

    def committed(self) -> Iterator[tuple[GroupRow, GroupArrays]]:
        """The groups that were trained on, with their arrays."""
        for row in self.journal.groups(purpose="train", states=["committed"]):
            yield row, unpack_group(decode_group(row.payload))


def every_lease_is_accounted_for(left: Left) -> list[str]:
    """Each training lease ended in one of the ways there are; each draw of a prompt is a lease."""
    counts = left.journal.counts()
    problems = [
        f"{n} leases are still {state}" for state, n in counts.items() if state not in ENDED
    ]
    nothing = sum(left.journal.ended().values()) - sum(
        n for reason, n in left.journal.ended().items() if reason
    )
    if nothing:
        problems.append(f"{nothing} leases failed or were evicted without a reason")
    leases = left.journal.leases(*ENDED)
    drawn = sum(left.journal.first_attempt(lease.id) == 1 for lease in leases)
    cursor = int(left.journal.meta("cursor") or 0)
    if drawn != cursor:
        problems.append(f"{cursor} prompts were drawn, and {drawn} leases were made of them")
    return problems


def batches_are_whole_and_trained_once(left: Left) -> list[str]:
    """Every step has its groups, and no group's samples were trained on under two leases."""
    per_step: Counter[int] = Counter()
    payloads: Counter[bytes] = Counter()
    for row, _ in left.committed():
        assert row.step is not None
        per_step[row.step] += 1
        payloads[row.payload] += 1
    wanted = dict.fromkeys(range(left.config.steps), left.config.rollout.groups_per_step)
    problems = [
        f"step {step} has {per_step[step]} groups instead of {wanted.get(step, 0)}"
        for step in sorted(wanted.keys() | per_step.keys())
        if per_step[step] != wanted.get(step, 0)
    ]
    if twice := sum(n - 1 for n in payloads.values() if n > 1):
        problems.append(f"{twice} groups were trained on again under another lease")
    return problems


def nothing_is_too_old(left: Left) -> list[str]:
    """By the versions of the tokens themselves, not by the lag that was written down."""
    problems = []
    every, bound = left.config.weights.publish_every, left.config.rollout.max_lag
    for row, group in left.committed():
        assert row.step is not None
        version = row.step // every
        lag = version - int(group.versions.min())
        if lag > bound:
            problems.append(f"group {row.lease} of step {row.step} lags by {lag}")
        if lag != row.lag:
            problems.append(f"group {row.lease} lags by {lag}, the journal says {row.lag}")
    return problems


def the_log_is_whole(left: Left) -> list[str]:
    """metrics.jsonl has each step once, in order."""
    steps = [line["step"] for line in read_run_log(left.run_dir / "metrics.jsonl")]
    if steps != list(range(1, left.config.steps + 1)):
        return [f"metrics.jsonl has {len(steps)} lines, not the steps 1 to {left.config.steps}"]
    return []


def the_learner_trained_what_the_journal_says(left: Left) -> list[str]:
    """Each batch has as many tokens of each lag as the learner itself counted in its step, where it
    lived to tell."""
    batches: dict[int, Counter[int]] = defaultdict(Counter)
    for row, group in left.committed():
        assert row.step is not None
        version = row.step // left.config.weights.publish_every
        batches[row.step].update((version - group.versions).tolist())
    problems = []
    for line in read_run_log(left.run_dir / "metrics.jsonl"):
        if not any(key.startswith("learner/") for key in line):
            continue
        counted = {
            int(key.removeprefix(_TOKENS)): n for key, n in line.items() if key.startswith(_TOKENS)
        }
        if counted != batches[line["step"] - 1]:
            problems.append(
                f"step {line['step'] - 1}: the learner had tokens {counted} by lag, the journal "
                f"has {dict(batches[line['step'] - 1])}"
            )
    return problems


def generators_had_the_learners_weights(left: Left) -> list[str]:
    """Where the versions are the same, so were the log-probabilities of every token sampled.

    Batches with tokens that were sampled after an update, on a KV cache from before it, are left
    out, and so are those with groups that an earlier learner's generators sampled: after it went
    back to a checkpoint a version of the same number has other weights, if only by rounding.
    """
    earlier = _batches_of_mixed_weights(left)
    return [
        f"step {line['step'] - 1}: KL {line['learner/mismatch_kl/lag=0']:.2g} at lag 0"
        for line in read_run_log(left.run_dir / "metrics.jsonl")
        if line.get("learner/mismatch_kl/lag=0", 0.0) > ON_POLICY_KL
        and line["step"] - 1 not in earlier
    ]


def _batches_of_mixed_weights(left: Left) -> set[int]:
    """Those with a group of several versions, or one that was delivered before the step that made
    its weights, which was trained once more after it."""
    with closing(
        sqlite3.connect(f"{left.journal.path.resolve().as_uri()}?mode=ro", uri=True)
    ) as db:
        rows = db.execute(
            "SELECT DISTINCT l.step FROM groups g JOIN leases l ON l.id = g.lease"
            " JOIN steps s ON s.step = g.newest * ? - 1"
            " WHERE l.purpose = 'train' AND g.delivered < s.finished"
            " UNION SELECT l.step FROM groups g JOIN leases l ON l.id = g.lease"
            " WHERE l.purpose = 'train' AND g.oldest < g.newest",
            (left.config.weights.publish_every,),
        )
        return {step for (step,) in rows}


def evaluations_are_of_one_version(left: Left) -> list[str]:
    """All of an evaluation's samples come from the weights that it is of."""
    versions = {e.id: e.version for e in left.journal.evaluations()}
    return [
        f"evaluation {row.evaluation} of version {versions[row.evaluation]} has tokens of "
        f"{row.oldest} to {row.newest}"
        for row in left.journal.groups(purpose="eval")
        if row.evaluation in versions and {row.oldest, row.newest} != {versions[row.evaluation]}
    ]


def the_optimizer_made_these_steps(left: Left) -> list[str]:
    """DeepSpeed's own count in the last checkpoint, which no journal can make up."""
    import torch

    folder = left.run_dir / "checkpoints" / f"step-{left.config.steps}" / "deepspeed" / "state"
    state = torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)
    found, wanted = state["global_steps"], left.config.steps
    return [] if found == wanted else [f"the optimizer made {found} steps instead of {wanted}"]


def the_result_was_evaluated_on_the_learners_weights(left: Left) -> list[str]:
    """What the generators sampled last has the log-probabilities that the last checkpoint gives it,
    computed by another library."""
    import torch
    from transformers import AutoModelForCausalLM

    steps = left.config.steps
    model = AutoModelForCausalLM.from_pretrained(
        left.run_dir / "checkpoints" / f"step-{steps}" / "hf", dtype=torch.float32
    )
    differences = []
    last = steps // left.config.weights.publish_every
    for row in (g for g in left.journal.groups(purpose="eval") if g.oldest == last):
        group = unpack_group(decode_group(row.payload))
        ends = np.cumsum(group.lengths)
        for completion, end in zip(group.completions(), ends, strict=True):
            ids = torch.tensor(np.concatenate([group.prompt_ids, completion]))[None].long()
            with torch.no_grad():
                logits = model(ids).logits[0, len(group.prompt_ids) - 1 : -1]
            ours = torch.log_softmax(logits / left.config.eval.temperatures[0], -1)
            ours = ours.gather(1, torch.tensor(completion)[:, None].long())[:, 0].numpy()
            differences.append(np.abs(ours - group.logprobs[end - len(completion) : end]).mean())
    if not differences:
        return ["nothing was sampled with the last weights"]
    worst = max(differences)
    return [f"log-probabilities differ by {worst:.2g}"] if worst > LOG_PROB_TOLERANCE else []


def the_policy_improved(summary: dict[str, Any]) -> list[str]:
    """Pass@1 of the result is above the base model's."""
    base, *_, result = (e["pass@k"]["1"] for e in summary["eval"])
    return [] if result > base else [f"Pass@1 was {base:.3f} and is {result:.3f}"]


FILES = (
    every_lease_is_accounted_for,
    batches_are_whole_and_trained_once,
    nothing_is_too_old,
    the_log_is_whole,
    the_learner_trained_what_the_journal_says,
    generators_had_the_learners_weights,
    evaluations_are_of_one_version,
)
"""What needs no model."""
MODELS = (the_optimizer_made_these_steps, the_result_was_evaluated_on_the_learners_weights)


def violations(left: Left) -> list[str]:
    """Everything that is wrong with a run that ended well."""
    return [problem for check in (*FILES, *MODELS) for problem in check(left)]
