"""Messages to bytes and back, strictly: what contradicts its type or its lengths is refused."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from asyncds.protocol.batch import Float32, Int32, SequenceTable, Shard
from asyncds.protocol.spans import NONE, Bool, sampled_lengths, sampled_mask
from asyncds.protocol.wire import Batch, FromCoordinator, Group, Message, ToCoordinator

MAX_FRAME_BYTES = 256 << 20
MAX_PARTS = 16
"""Of a reward: each is a series of the run's metrics."""
PART_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}")

_encoder = msgspec.msgpack.Encoder()
_to_coordinator = msgspec.msgpack.Decoder(ToCoordinator)
_from_coordinator = msgspec.msgpack.Decoder(FromCoordinator)
_group = msgspec.msgpack.Decoder(Group)


class ProtocolError(ValueError):
    """Bytes that are not a well-formed message."""


def encode(message: Message | Group) -> bytes:
    """Msgpack bytes of a message."""
    return _encoder.encode(message)


def decode_to_coordinator(frame: bytes) -> ToCoordinator:
    """Decode a message of a generator, a learner rank or an observer. Raises ProtocolError."""
    return _decode(_to_coordinator, frame)


def decode_from_coordinator(frame: bytes) -> FromCoordinator:
    """Decode a message of the coordinator. Raises ProtocolError."""
    return _decode(_from_coordinator, frame)


def decode_group(blob: bytes) -> Group:
    """A group from the journal. Raises ProtocolError."""
    return _decode(_group, blob)


def _decode(decoder: msgspec.msgpack.Decoder, frame: bytes) -> Any:
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(frame)} bytes is over {MAX_FRAME_BYTES}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class GroupArrays:
    """A group's arrays, as in `wire.Group`, with versions expanded to one per token.

    prompt_ids int32 [p], lengths int32 [n], completion_ids int32 [t], given int32 [k, 2]: spans of
    completion_ids that were not sampled, logprobs float32 [s], versions int32 [s], rewards
    float32 [n], correct bool [n], finished bool [n], answers [n] by equivalence, the primary one
    first; parts float32 [n] by name; reasons [n], or [] where all are ""; t = Σ lengths, of which
    s tokens were sampled.
    """

    prompt_ids: Int32
    lengths: Int32
    completion_ids: Int32
    logprobs: Float32
    versions: Int32
    rewards: Float32
    correct: npt.NDArray[np.bool_]
    finished: npt.NDArray[np.bool_]
    answers: dict[str, list[str]]
    parts: dict[str, Float32] = field(default_factory=dict)
    given: Int32 = field(default_factory=NONE.copy)
    reasons: list[str] = field(default_factory=list)

    @property
    def sampled(self) -> Bool:
        """Mask of the sampled ones among the completions' tokens, bool [t]."""
        return sampled_mask(self.given, len(self.completion_ids))

    @property
    def sampled_lengths(self) -> Int32:
        """Number of sampled tokens of each completion, int32 [n]."""
        return sampled_lengths(self.given, self.lengths)

    def completions(self) -> list[Int32]:
        """Token ids of each completion, n arrays."""
        return np.split(self.completion_ids, np.cumsum(self.lengths)[:-1])

    def logprob_sums(self) -> Float32:
        """Σ_t log μ of each completion's sampled tokens, float32 [n]."""
        lengths = self.sampled_lengths
        ends = np.cumsum(lengths)
        total = np.concatenate([[0.0], np.cumsum(self.logprobs, dtype=np.float64)])
        return (total[ends] - total[ends - lengths]).astype(np.float32)


def pack_group(arrays: GroupArrays) -> Group:
    """Pack a group into the wire's form."""
    versions = arrays.versions
    starts = np.flatnonzero(np.diff(versions, prepend=versions[0] - 1))
    counts = np.diff(np.append(starts, len(versions)))
    runs = np.stack([versions[starts], counts], axis=1)
    return Group(
        prompt_ids=_raw(arrays.prompt_ids, "<i4"),
        lengths=_raw(arrays.lengths, "<i4"),
        completion_ids=_raw(arrays.completion_ids, "<i4"),
        logprobs=_raw(arrays.logprobs, "<f4"),
        versions=_raw(runs, "<i4"),
        rewards=_raw(arrays.rewards, "<f4"),
        correct=_raw(arrays.correct, "u1"),
        finished=_raw(arrays.finished, "u1"),
        answers=arrays.answers,
        parts={name: _raw(values, "<f4") for name, values in arrays.parts.items()},
        given=_raw(arrays.given, "<i4"),
        reasons=arrays.reasons if any(arrays.reasons) else [],
    )


def unpack_group(group: Group) -> GroupArrays:
    """Unpack a group from the wire's form, and check it.

    Raises:
        ProtocolError: lengths or spans that contradict each other, a completion of which nothing
            was sampled, log-probabilities that are not finite or above 0, negative ids or versions,
            non-finite rewards.
    """
    lengths = _array(group.lengths, "<i4")
    ids = _array(group.completion_ids, "<i4")
    logprobs = _array(group.logprobs, "<f4")
    rewards = _array(group.rewards, "<f4")
    prompt = _array(group.prompt_ids, "<i4")
    correct, finished = _array(group.correct, "u1"), _array(group.finished, "u1")
    runs = _array(group.versions, "<i4")
    n, tokens = len(lengths), len(ids)
    _require(n > 0, "a group without completions")
    _require(bool((lengths > 0).all()), "an empty completion")
    _require(int(lengths.sum(dtype=np.int64)) == tokens, "lengths do not add up to the tokens")
    given = _spans(_array(group.given, "<i4"), tokens)
    sampled = sampled_lengths(given, lengths)
    _require(bool((sampled > 0).all()), "a completion of which nothing was sampled")
    _require(len(logprobs) == sampled.sum(), "not one log-probability per sampled token")
    _require(len(rewards) == len(correct) == len(finished) == n, "not one score per completion")
    _require(len(group.answers) > 0, "answers under no equivalence")
    _require(all(len(a) == n for a in group.answers.values()), "not one answer per completion")
    _require(len(group.reasons) in (0, n), "not one reason per completion")
    _require(len(prompt) > 0, "an empty prompt")
    _require(min(prompt.min(), ids.min()) >= 0, "a negative token id")
    _require(bool(np.isfinite(logprobs).all()), "a log-probability that is not finite")
    _require(bool((logprobs <= 0).all()), "a log-probability above 0")
    starts = np.cumsum(sampled) - sampled
    sums = np.add.reduceat(logprobs, starts, dtype=np.float64)
    _require(bool((sums >= np.finfo(np.float32).min).all()), "log-probabilities without end")
    _require(bool(np.isfinite(rewards).all()), "a reward that is not finite")
    _require(int(max(correct.max(), finished.max())) <= 1, "a flag that is neither 0 nor 1")
    _require(len(runs) % 2 == 0, "versions are not pairs")
    pairs = runs.reshape(-1, 2)
    _require(bool((pairs[:, 0] >= 0).all() and (pairs[:, 1] > 0).all()), "a bad version run")
    covered = int(pairs[:, 1].sum(dtype=np.int64))
    _require(covered == len(logprobs), "versions do not cover the sampled tokens")
    return GroupArrays(
        prompt_ids=prompt,
        lengths=lengths,
        completion_ids=ids,
        logprobs=logprobs,
        versions=np.repeat(pairs[:, 0], pairs[:, 1]),
        rewards=rewards,
        correct=correct.astype(np.bool_),
        finished=finished.astype(np.bool_),
        answers=group.answers,
        parts=_parts(group, n),
        given=given,
        reasons=group.reasons,
    )


def _spans(flat: Int32, tokens: int) -> Int32:
    """Spans [k, 2] of so many tokens, checked."""
    _require(len(flat) % 2 == 0, "spans of given tokens are not pairs")
    spans = flat.reshape(-1, 2)
    starts, counts = spans[:, 0].astype(np.int64), spans[:, 1].astype(np.int64)
    ends = np.concatenate([[-1], starts + counts])
    apart = (counts > 0).all() and (starts > ends[:-1]).all() and ends[-1] <= tokens
    _require(bool(apart), "a bad span of given tokens")
    return spans


def _parts(group: Group, n: int) -> dict[str, Float32]:
    _require(len(group.parts) <= MAX_PARTS, f"a reward of more than {MAX_PARTS} parts")
    parts = {name: _array(raw, "<f4") for name, raw in group.parts.items()}
    for name, values in parts.items():
        _require(PART_NAME.fullmatch(name) is not None, "a part of a reward with a bad name")
        _require(len(values) == n, "not one part of the reward per completion")
        _require(bool(np.isfinite(values).all()), "a part of a reward that is not finite")
    return parts


_SHARD_ARRAYS = ("sequences", "prompt_ids", "completion_ids", "logprobs", "versions", "given")
_FLAGS = ("correct", "finished")
_WIRE_TYPE = {
    **dict.fromkeys(("reward", "logprob_sum", "logprobs"), "<f4"),
    **dict.fromkeys(_FLAGS, "u1"),
}


def pack_shard(shard: Shard) -> Batch:
    """A learner rank's shard to the wire's form."""
    return Batch(
        step=shard.step,
        rank=shard.rank,
        leases=shard.leases,
        table=[_raw(getattr(shard.table, f.name), _type(f.name)) for f in fields(SequenceTable)],
        generators=shard.generators,
        arrays=[_raw(getattr(shard, name), _type(name)) for name in _SHARD_ARRAYS],
    )


def unpack_shard(batch: Batch) -> Shard:
    """A learner rank's shard from the wire's form, checked.

    Raises:
        ProtocolError: lengths that contradict each other, sequences that are not the rank's,
            groups without a lease, generators without a name, and values that `unpack_group`
            refuses.
    """
    names = [f.name for f in fields(SequenceTable)]
    _require(len(batch.table) == len(names), "not a batch table")
    _require(len(batch.arrays) == len(_SHARD_ARRAYS), "not a shard")
    columns = {n: _array(b, _type(n)) for n, b in zip(names, batch.table, strict=True)}
    _require(len({len(c) for c in columns.values()}) == 1, "columns of different lengths")
    for name in _FLAGS:
        _require(bool((columns[name] <= 1).all()), "a flag that is neither 0 nor 1")
        columns[name] = columns[name].astype(np.bool_)
    arrays = {n: _array(b, _type(n)) for n, b in zip(_SHARD_ARRAYS, batch.arrays, strict=True)}
    arrays["given"] = _spans(arrays["given"], len(arrays["completion_ids"]))
    shard = Shard(
        step=batch.step,
        rank=batch.rank,
        leases=batch.leases,
        table=SequenceTable(**columns),
        generators=batch.generators,
        **arrays,
    )
    _check_shard(shard)
    return shard


def _check_shard(shard: Shard) -> None:
    table, mine = shard.table, shard.sequences
    owned = np.flatnonzero(table.rank == shard.rank)
    _require(np.array_equal(owned, mine), "sequences that are not those of the rank")
    _require(bool((table.prompt_length > 0).all()), "an empty prompt")
    _require(bool((table.sampled > 0).all()), "a completion of which nothing was sampled")
    _require(bool((table.sampled <= table.length).all()), "more tokens sampled than there are")
    _require(bool(((table.group >= 0) & (table.rank >= 0)).all()), "a negative group or rank")
    _require(bool((table.group < len(shard.leases)).all()), "a group without a lease")
    _require(len(shard.generators) > 0, "a batch without generators")
    _require(len(set(shard.generators)) == len(shard.generators), "a generator named twice")
    known = (table.generator >= 0) & (table.generator < len(shard.generators))
    _require(bool(known.all()), "a generator without a name")
    _require(bool(np.isfinite(table.reward).all()), "a reward that is not finite")
    _require(bool((table.logprob_sum <= 0).all()), "a log-probability above 0")
    _require(bool(np.isfinite(table.logprob_sum).all()), "a log-probability that is not finite")
    prompts = int(table.prompt_length[mine].sum(dtype=np.int64))
    tokens = int(table.length[mine].sum(dtype=np.int64))
    _require(len(shard.prompt_ids) == prompts, "lengths do not add up to the prompts")
    _require(len(shard.completion_ids) == tokens, "lengths do not add up to the tokens")
    sampled = sampled_lengths(shard.given, table.length[mine])
    _require(np.array_equal(sampled, table.sampled[mine]), "given tokens unlike the table's")
    _require(len(shard.logprobs) == sampled.sum(), "not one log-probability per sampled token")
    _require(len(shard.versions) == sampled.sum(), "not one version per sampled token")
    _require(bool((shard.prompt_ids >= 0).all()), "a negative token id")
    _require(bool((shard.completion_ids >= 0).all()), "a negative token id")
    _require(bool((shard.versions >= 0).all()), "a negative version")
    _require(bool(np.isfinite(shard.logprobs).all()), "a log-probability that is not finite")
    _require(bool((shard.logprobs <= 0).all()), "a log-probability above 0")


def _type(name: str) -> str:
    return _WIRE_TYPE.get(name, "<i4")


def _raw(array: npt.ArrayLike, dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()


def _array(raw: bytes, dtype: str) -> npt.NDArray[Any]:
    _require(len(raw) % np.dtype(dtype).itemsize == 0, "a buffer that is cut off")
    return np.frombuffer(raw, dtype=dtype)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ProtocolError(what)
