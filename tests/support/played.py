"""Episodes in a run's journal, with what people need to see of them."""

from contextlib import closing
from pathlib import Path

import numpy as np

from asyncds.protocol.codec import GroupArrays, encode, pack_group
from asyncds.protocol.spans import given_spans
from asyncds.rollout.journal import Journal
from tests.support.synthetic_run import WORDS


def episode_group(*, reasons: tuple[str, str] = ("", "turns"), hostile: str = "6") -> GroupArrays:
    """Two episodes: `2 * 3 =`, the answer `6 :`, `2 * 3 <eos>`; then one of two turns.

    The first's turns are of versions 3 and 4, and 4 begins within its second turn. Its first token
    is certain, and every other less likely than the one before.
    """
    turns = [("2 * 3 =", True), (f"{hostile} :", False), ("2 * 3 <eos>", True)]
    again = [("( 1 ) =", True), ("1 :", False), ("9 =", True)]
    ids, mask, lengths = [], [], []
    for episode in (turns, again):
        words = [(word, sampled) for text, sampled in episode for word in text.split()]
        ids += [WORDS.index(word) for word, _ in words]
        mask += [sampled for _, sampled in words]
        lengths.append(len(words))
    sampled = sum(mask)
    return GroupArrays(
        prompt_ids=np.array([2, 3, WORDS.index("="), 6], np.int32),
        lengths=np.array(lengths, np.int32),
        completion_ids=np.array(ids, np.int32),
        logprobs=-np.arange(sampled, dtype=np.float32) / 2,
        versions=np.array([3] * 5 + [4] * (sampled - 5), np.int32),
        rewards=np.array([1, 0], np.float32),
        correct=np.array([True, False]),
        finished=np.array([True, False]),
        answers={"written": ["2 * 3", ""]},
        parts={"calls": np.array([1, 2], np.float32), "tool_errors": np.zeros(2, np.float32)},
        given=given_spans(np.array(mask)),
        reasons=list(reasons),
    )


def add_group(run: Path, arrays: GroupArrays, *, step: int | None = None) -> int:
    """Deliver a group for training, for batch `step` from 0 if given. Returns its lease."""
    with closing(Journal(run / "journal.db")) as journal, journal.transaction():
        lease = journal.next_lease_id()
        journal.add_lease(id=lease, purpose="train", row=0, attempt=1, evaluation=None)
        journal.deliver(
            lease=lease,
            generator="generator-0",
            oldest=int(arrays.versions.min()),
            newest=int(arrays.versions.max()),
            n=len(arrays.lengths),
            n_correct=int(arrays.correct.sum()),
            reward=float(arrays.rewards.mean()),
            tokens=int(arrays.sampled_lengths.sum()),
            payload=encode(pack_group(arrays)),
        )
        if step is not None:
            journal.batch(step, step, [lease])
            journal.consume(step)
        return int(lease)
