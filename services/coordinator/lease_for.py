"""The terms of a lease as a generator gets them, from the configuration."""

import json
from typing import Any

from asyncds.config.schema import RunConfig
from asyncds.protocol.wire import Lease
from asyncds.rollout.lifecycle import Purpose
from asyncds.rollout.open_leases import OpenLease
from services.coordinator.prompts import sampling_seed


def lease_for(entry: OpenLease, *, config: RunConfig) -> Lease:
    """The lease of an entry as it goes over the wire.

    Sample i of a problem at a temperature has the same seed in every evaluation, whichever part it
    is in; a training lease has one of its own.
    """
    c, train = config, entry.purpose == Purpose.TRAIN
    temperature = c.sampling.temperature if entry.temperature is None else entry.temperature
    key = entry.id if train else f"{entry.row}/{temperature}"
    return Lease(
        id=entry.id,
        split="train" if train else c.eval.split,
        row=entry.row,
        attempt=entry.attempt,
        group_size=c.rollout.group_size if entry.samples is None else entry.samples,
        seed=sampling_seed(c.seed, entry.purpose, key) + entry.first,
        temperature=temperature,
        max_tokens=c.sampling.max_tokens,
        top_p=c.sampling.top_p if train else c.eval.top_p,
        top_k=c.sampling.top_k if train else c.eval.top_k,
        min_p=c.sampling.min_p if train else 0.0,
        straggler_seconds=c.rollout.straggler_seconds,
        min_group=c.rollout.resolved_min_group if train else 1,
    )


def samples_asked(
    config: RunConfig, version: int, step: int, n_samples: int, n_problems: int
) -> str:
    """Everything that the samples of an evaluation follow from, as a text."""
    parts: dict[str, Any] = {
        **dict.fromkeys(("model", "tokenizer", "dtype", "seed", "task"), True),
        "sampling": {"max_tokens"},
        "eval": {"split", "temperatures", "top_p", "top_k"},
    }
    chosen = config.model_dump(mode="json", include=parts)
    return json.dumps([version, step, n_samples, n_problems, chosen], sort_keys=True)
