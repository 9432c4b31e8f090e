"""Cutting a batch of groups into one shard per learner rank."""

from collections.abc import Sequence

import numpy as np

from asyncds.protocol.batch import Int32, SequenceTable, Shard
from asyncds.protocol.codec import GroupArrays
from asyncds.protocol.spans import given_spans

EVEN = 1.02
"""The tokens that the fullest rank may have, over the mean, for groups to stay together."""


def make_shards(
    step: int,
    groups: Sequence[GroupArrays],
    ranks: int,
    *,
    leases: Sequence[int],
    generators: Sequence[str],
) -> list[Shard]:
    """One shard per rank: whole sequences, balanced by tokens, group statistics in every shard.

    leases: that of each group. generators: who sampled each group. The result depends on the groups
    and their order only.
    """
    sizes = [len(g.lengths) for g in groups]
    prompts = np.repeat(np.array([len(g.prompt_ids) for g in groups], dtype=np.int32), sizes)
    lengths = np.concatenate([g.lengths for g in groups])
    names = list(dict.fromkeys(generators))
    generator = np.array([names.index(name) for name in generators], dtype=np.int32)
    table = SequenceTable(
        group=np.repeat(np.arange(len(groups), dtype=np.int32), sizes),
        reward=np.concatenate([g.rewards for g in groups]),
        correct=np.concatenate([g.correct for g in groups]),
        prompt_length=prompts,
        length=lengths,
        sampled=np.concatenate([g.sampled_lengths for g in groups]),
        logprob_sum=np.concatenate([g.logprob_sums() for g in groups]),
        rank=balance_groups(
            prompts + lengths, groups=[len(g.lengths) for g in groups], ranks=ranks
        ),
        finished=np.concatenate([g.finished for g in groups]),
        generator=np.repeat(generator, sizes),
    )
    sequences = [
        (g.prompt_ids, *parts)
        for g in groups
        for parts in zip(
            *(
                np.split(flat, np.cumsum(lengths)[:-1])
                for flat, lengths in (
                    (g.completion_ids, g.lengths),
                    (g.sampled, g.lengths),
                    (g.logprobs, g.sampled_lengths),
                    (g.versions, g.sampled_lengths),
                )
            ),
            strict=True,
        )
    ]
    shards = []
    for rank in range(ranks):
        mine = np.flatnonzero(table.rank == rank).astype(np.int32)
        prompt, ids, sampled, logprobs, versions = (
            np.concatenate([sequences[i][part] for i in mine]) for part in range(5)
        )
        shards.append(
            Shard(
                step=step,
                rank=rank,
                leases=list(leases),
                table=table,
                generators=names,
                sequences=mine,
                prompt_ids=prompt,
                completion_ids=ids,
                given=given_spans(sampled),
                logprobs=logprobs,
                versions=versions,
            )
        )
    return shards


def balance_groups(tokens: Int32, *, groups: Sequence[int], ranks: int) -> Int32:
    """The rank of each sequence: whole groups, which share a prompt, where that balances as well.

    tokens: of each sequence. groups: sequences of each group, one after another. Where the fullest
    rank would get more than EVEN times the mean, sequences are placed one by one.
    """
    if len(groups) >= ranks:
        starts = np.cumsum([0, *groups[:-1]])
        owner = np.repeat(balance(np.add.reduceat(tokens, starts).astype(np.int32), ranks), groups)
        load = np.bincount(owner, weights=tokens, minlength=ranks)
        if load.max() <= EVEN * load.mean():
            return owner
    return balance(tokens, ranks)


def balance(tokens: Int32, ranks: int) -> Int32:
    """The rank of each sequence: longest first, each to the rank with the fewest tokens so far.

    Every rank gets at least one. Raises ValueError if there are fewer sequences than ranks.
    """
    if len(tokens) < ranks:
        raise ValueError(f"{len(tokens)} sequences can't be divided over {ranks} ranks")
    owner = np.zeros(len(tokens), dtype=np.int32)
    load = np.zeros(ranks, dtype=np.int64)
    for i in np.argsort(-tokens.astype(np.int64), kind="stable"):
        rank = int(np.argmin(load))
        owner[i] = rank
        load[rank] += max(1, int(tokens[i]))
    return owner
