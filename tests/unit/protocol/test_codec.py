"""The codec: what goes in comes out, and whatever is malformed is a ProtocolError."""

from collections.abc import Callable
from dataclasses import fields

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.protocol import wire
from asyncds.protocol.codec import (
    MAX_FRAME_BYTES,
    GroupArrays,
    ProtocolError,
    decode_from_coordinator,
    decode_group,
    decode_to_coordinator,
    encode,
    pack_group,
    pack_shard,
    unpack_group,
    unpack_shard,
)
from asyncds.protocol.records import MemberStatus, RunStatus
from asyncds.protocol.sharding import make_shards
from tests.support.rollout_groups import group_arrays, make_group

GROUP = pack_group(make_group(versions=(3, 4)))
LEASE = wire.Lease(
    id=7,
    split="train",
    row=3,
    attempt=1,
    group_size=2,
    seed=11,
    temperature=1.0,
    max_tokens=8,
    top_p=1.0,
    top_k=-1,
    min_p=0.0,
    straggler_seconds=2.0,
    min_group=1,
)
MEMBER = MemberStatus(name="g", health="dead", version=1, last_seen=9.0)
TO_COORDINATOR = [
    wire.GeneratorHello(
        name="g",
        incarnation="a",
        protocol=1,
        workers=1,
        capacity=8,
        tokenizer="t",
        data="d",
        rows={"train": 5, "eval": 2},
        multiplicity={"written": [12, 0]},
        sets=[("AIME24", 4), ("MATH-500", 0)],
        leases=[1, 2],
    ),
    wire.LearnerHello(
        name="l",
        incarnation="a",
        protocol=1,
        rank=0,
        ranks=2,
        step=3,
        tokenizer="t",
        vocab_size=32,
    ),
    wire.GeneratorHeartbeat(leases=[3], stats={"running": 1.0}),
    wire.LearnerHeartbeat(rank=0, staged=-1, checkpoint=-1, phase="starting"),
    wire.Delivered(lease=7, attempt=1, group=GROUP),
    wire.LeaseFailed(lease=7, attempt=1, reason="no", permanent=True),
    wire.Prepared(sync=1, version=2, rendezvous="r", layout="l", tensors=b"t", checksums=[2**63]),
    wire.Applied(sync=1, checksums=[2**63], probe=b"", pause_seconds=0),
    wire.Sent(sync=1, checksums=[1], probe=b"", seconds=0.1),
    wire.SyncFailed(sync=1, reason="no"),
    wire.BatchRequest(rank=0, step=0, report={"loss": 1.0}),
    wire.Bye(),
    wire.Observe(),
    wire.Stop(reason="enough"),
    wire.Starting(name="g", doing="loading the model"),
]
EPISODES = GroupArrays(
    **vars(make_group(n=3, versions=(1, 2)))
    | {
        "given": np.array([[1, 1], [4, 1], [7, 1]], dtype=np.int32),
        "logprobs": np.full(6, -0.5, dtype=np.float32),
        "versions": np.array([1, 1, 1, 2, 2, 2], dtype=np.int32),
    }
)
SHARD = pack_shard(
    make_shards(
        4,
        [make_group(), EPISODES],
        2,
        leases=[7, 9],
        generators=["g", "other"],
    )[1]
)
FROM_COORDINATOR = [
    wire.Welcome(id="0f"),
    wire.Refused(reason="no"),
    wire.GivenUp(reason="no"),
    wire.Identify(),
    wire.Grant(leases=[LEASE]),
    wire.Ack(leases=[7]),
    wire.Cancel(leases=[7]),
    wire.Prepare(sync=1, epoch=1, rank=1, world_size=2, probe=True, deadline=3.0),
    wire.Go(sync=1, version=2, rendezvous="r", layout="l", tensors=b"t", checksums=[2**63]),
    wire.SyncAborted(sync=1, reason="no"),
    SHARD,
    wire.Finish(reason="done"),
    wire.Drain(reason="done"),
    wire.Dump(reason="nobody moves"),
    wire.LearnerAck(keep=[4, 8], evaluating=True),
    wire.Status(run=RunStatus(step=1, fleet=[MEMBER])),
]


@pytest.mark.parametrize("message", TO_COORDINATOR, ids=lambda m: type(m).__name__)
def test_messages_to_the_coordinator_come_back(message: wire.Message) -> None:
    assert decode_to_coordinator(encode(message)) == message


@pytest.mark.parametrize("message", FROM_COORDINATOR, ids=lambda m: type(m).__name__)
def test_messages_from_the_coordinator_come_back(message: wire.Message) -> None:
    assert decode_from_coordinator(encode(message)) == message


def test_every_message_is_in_the_examples() -> None:
    assert {type(m) for m in TO_COORDINATOR} == set(wire.ToCoordinator.__args__)
    assert {type(m) for m in FROM_COORDINATOR} == set(wire.FromCoordinator.__args__)


@given(group_arrays())
def test_groups_come_back(group: GroupArrays) -> None:
    back = unpack_group(decode_group(encode(pack_group(group))))
    for field in fields(GroupArrays):
        before, after = getattr(group, field.name), getattr(back, field.name)
        if field.name == "answers":
            assert list(before.items()) == list(after.items())
        elif field.name == "reasons":
            assert after == (before if any(before) else [])
        elif field.name == "parts":
            assert list(before) == list(after)
            for name, values in before.items():
                np.testing.assert_array_equal(values, after[name])
        else:
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1))
def test_versions_are_run_length_coded(runs: list[tuple[int, int]]) -> None:
    versions = np.repeat([v for v, _ in runs], [c for _, c in runs]).astype(np.int32)
    one = make_group(n=1, length=len(versions))
    packed = pack_group(_with(one, versions=versions))
    pairs = np.frombuffer(packed.versions, "<i4").reshape(-1, 2)
    assert (np.diff(pairs[:, 0]) != 0).all()
    np.testing.assert_array_equal(unpack_group(packed).versions, versions)


@given(group_arrays())
def test_log_probability_sums(group: GroupArrays) -> None:
    parts = np.split(group.logprobs.astype(np.float64), np.cumsum(group.sampled_lengths)[:-1])
    expected = np.array([p.sum() for p in parts]).astype(np.float32)
    scale = float(np.abs(group.logprobs.astype(np.float64)).sum())
    np.testing.assert_allclose(group.logprob_sums(), expected, rtol=1e-6, atol=1e-9 * scale)


def test_what_was_sampled_throughout_and_ended_by_itself_costs_three_bytes_for_that() -> None:
    """Two for an empty buffer, one for an empty list."""
    assert (GROUP.given, GROUP.reasons) == (b"", [])
    fields_before = msgspec.structs.astuple(GROUP)[:-2]
    assert len(encode(GROUP)) == len(msgspec.msgpack.encode(fields_before)) + 3


def test_groups_from_before_there_were_environments_are_read() -> None:
    before = msgspec.msgpack.encode(msgspec.structs.astuple(GROUP)[:-2])
    group = unpack_group(decode_group(before))
    assert group.sampled.all()
    np.testing.assert_array_equal(group.sampled_lengths, group.lengths)


def _with(group: GroupArrays, **changes: object) -> GroupArrays:
    return GroupArrays(**{f.name: getattr(group, f.name) for f in fields(group)} | changes)


def _raw(values: list[float], dtype: str) -> bytes:
    return np.array(values, dtype=dtype).tobytes()


def _given(spans: list[int]) -> dict[str, bytes]:
    """Spans, with log-probabilities and versions for as many tokens as they leave."""
    left = 6 - sum(count for count in spans[1::2] if count < 6)
    return {
        "given": _raw(spans, "<i4"),
        "logprobs": _raw([-0.5] * left, "<f4"),
        "versions": _raw([3, left], "<i4"),
    }


def test_spans_that_fit_are_taken() -> None:
    group = unpack_group(msgspec.structs.replace(GROUP, **_given([1, 1, 3, 2])))
    assert group.sampled.tolist() == [True, False, True, False, False, True]
    assert group.sampled_lengths.tolist() == [2, 1]


BAD_GROUPS = {
    "no completions": {"lengths": b"", "rewards": b"", "correct": b"", "finished": b""},
    "an empty completion": {"lengths": _raw([0, 6], "<i4")},
    "a negative length": {"lengths": _raw([-1, 7], "<i4")},
    "lengths that wrap around": {
        "lengths": _raw([2**31 - 1, 2**31 - 1, 8], "<i4"),
        "rewards": bytes(12),
        "correct": bytes(3),
        "finished": bytes(3),
        "answers": {"written": [""] * 3},
    },
    "a token too few": {"completion_ids": _raw([5] * 5, "<i4")},
    "a log-prob too many": {"logprobs": _raw([-0.5] * 7, "<f4")},
    "half a number": {"completion_ids": b"\0" * 23},
    "a reward too few": {"rewards": _raw([0], "<f4")},
    "a flag too few": {"correct": b"\0"},
    "an odd flag": {"finished": b"\0\2"},
    "an answer too few": {"answers": {"written": ["", "", ""], "commutative": [""]}},
    "no answers": {"answers": {}},
    "a reason too many": {"reasons": ["", "turns", ""]},
    "no prompt": {"prompt_ids": b""},
    "a negative prompt id": {"prompt_ids": _raw([1, -1], "<i4")},
    "a negative id": {"completion_ids": _raw([5, 5, -5, 5, 5, 5], "<i4")},
    "-inf": {"logprobs": _raw([-0.5, -np.inf, -0.5, -0.5, -0.5, -0.5], "<f4")},
    "NaN": {"logprobs": _raw([-0.5, np.nan, -0.5, -0.5, -0.5, -0.5], "<f4")},
    "a positive log-prob": {"logprobs": _raw([-0.5, 1e-7, -0.5, -0.5, -0.5, -0.5], "<f4")},
    "an infinite reward": {"rewards": _raw([0, np.inf], "<f4")},
    "a NaN reward": {"rewards": _raw([np.nan, 0], "<f4")},
    "a part too few": {"parts": {"exact": _raw([0], "<f4")}},
    "an infinite part": {"parts": {"exact": _raw([0, np.inf], "<f4")}},
    "a part with a bad name": {"parts": {"no name": _raw([0, 0], "<f4")}},
    "seventeen parts": {"parts": {f"part{i}": _raw([0, 0], "<f4") for i in range(17)}},
    "odd version runs": {"versions": _raw([3, 6, 4], "<i4")},
    "no version runs": {"versions": b""},
    "a negative version": {"versions": _raw([-1, 6], "<i4")},
    "an empty run": {"versions": _raw([3, 6, 4, 0], "<i4")},
    "a negative run": {"versions": _raw([3, 7, 4, -1], "<i4")},
    "versions for other tokens": {"versions": _raw([3, 5], "<i4")},
    "log-probs and versions of a given token": {"given": _raw([0, 1], "<i4")},
    "half a span": _given([1, 1, 4]),
    "an empty span": _given([1, 0]),
    "a negative span": _given([1, -1]),
    "a span before the first token": _given([-1, 1]),
    "a span beyond the last token": _given([5, 2]),
    "spans that overlap": _given([0, 2, 1, 1]),
    "spans that are one": _given([0, 1, 1, 1]),
    "spans in another order": _given([4, 1, 1, 1]),
    "a completion that was all given": _given([0, 3]),
    "a span that wraps around": _given([2**31 - 1, 2**31 - 1]),
}


@pytest.mark.parametrize("changes", BAD_GROUPS.values(), ids=BAD_GROUPS.keys())
def test_malformed_groups_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        unpack_group(msgspec.structs.replace(GROUP, **changes))


TABLE = (
    "group",
    "reward",
    "correct",
    "prompt_length",
    "length",
    "sampled",
    "logprob_sum",
    "rank",
    "finished",
    "generator",
)
MAY_BE_NEGATIVE = ("reward", "logprob_sum", "logprobs")
ARRAYS = ("sequences", "prompt_ids", "completion_ids", "logprobs", "versions", "given")


def _shard(name: str, change: Callable[[np.ndarray], np.ndarray]) -> wire.Batch:
    dtype = {
        **dict.fromkeys(("reward", "logprob_sum", "logprobs"), "<f4"),
        **dict.fromkeys(("correct", "finished"), "u1"),
    }
    table, arrays = list(SHARD.table), list(SHARD.arrays)
    place, i = (table, TABLE.index(name)) if name in TABLE else (arrays, ARRAYS.index(name))
    kind = dtype.get(name, "<i4")
    place[i] = change(np.frombuffer(place[i], kind).copy()).astype(kind).tobytes()
    return msgspec.structs.replace(SHARD, table=table, arrays=arrays)


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([[value], array[1:]])


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, lambda a: a[1:]) for name in TABLE + ARRAYS]
    + [(name, _first(-1)) for name in TABLE + ARRAYS if name not in MAY_BE_NEGATIVE]
    + [(name, _first(np.nan)) for name in ("reward", "logprob_sum", "logprobs")]
    + [("logprobs", _first(0.5)), ("correct", _first(2)), ("sequences", _first(9))]
    + [("finished", _first(2)), ("generator", _first(2))]
    + [("rank", lambda a: 1 - a), ("length", lambda a: a + 1), ("sampled", lambda a: a - 1)]
    + [("sequences", lambda a: a[::-1])],
)
def test_malformed_shards_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    unpack_shard(SHARD)
    with pytest.raises(ProtocolError):
        unpack_shard(_shard(name, change))


@pytest.mark.parametrize("generators", [[], ["g"], ["g", "g"]], ids=str)
def test_generators_without_a_name_of_their_own_are_refused(generators: list[str]) -> None:
    with pytest.raises(ProtocolError, match="generator"):
        unpack_shard(msgspec.structs.replace(SHARD, generators=generators))


def test_groups_without_a_lease_are_refused() -> None:
    with pytest.raises(ProtocolError, match="lease"):
        unpack_shard(msgspec.structs.replace(SHARD, leases=[7]))


def test_a_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="over"):
        decode_to_coordinator(bytes(MAX_FRAME_BYTES + 1))


def test_nesting_without_end_is_refused() -> None:
    deep = b"\x92\xa6Status\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        decode_from_coordinator(deep)


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(TO_COORDINATOR[0], capacity=0),
        msgspec.structs.replace(TO_COORDINATOR[0], workers=-1),
        msgspec.structs.replace(TO_COORDINATOR[0], rows={"train": 2**40}),
        msgspec.structs.replace(TO_COORDINATOR[1], ranks=0),
        msgspec.structs.replace(TO_COORDINATOR[1], rank=-1),
        msgspec.structs.replace(TO_COORDINATOR[1], step=2**63),
        msgspec.structs.replace(TO_COORDINATOR[3], checkpoint=2**63),
        msgspec.structs.replace(TO_COORDINATOR[10], step=-1),
    ],
)
def test_numbers_out_of_range_are_refused(message: wire.Message) -> None:
    with pytest.raises(ProtocolError):
        decode_to_coordinator(encode(message))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_refused(frame: bytes) -> None:
    for decode in (decode_to_coordinator, decode_from_coordinator, decode_group):
        with pytest.raises(ProtocolError):
            decode(frame)


mutations = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def _mutated(frame: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    out = bytearray(frame)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: None if cut is None else cut % len(out)])


@settings(max_examples=300)
@given(st.sampled_from(TO_COORDINATOR), mutations, st.none() | st.integers(0, 10**6))
def test_mutated_messages_to_the_coordinator_never_break_it(
    message: wire.Message, changes: list[tuple[int, int]], cut: int | None
) -> None:
    try:
        decoded = decode_to_coordinator(_mutated(encode(message), changes, cut))
        if isinstance(decoded, wire.Delivered):
            unpack_group(decoded.group)
    except ProtocolError:
        pass


@settings(max_examples=300)
@given(st.sampled_from(FROM_COORDINATOR), mutations, st.none() | st.integers(0, 10**6))
def test_mutated_messages_from_the_coordinator_never_break_it(
    message: wire.Message, changes: list[tuple[int, int]], cut: int | None
) -> None:
    try:
        decoded = decode_from_coordinator(_mutated(encode(message), changes, cut))
        if isinstance(decoded, wire.Batch):
            unpack_shard(decoded)
    except ProtocolError:
        pass


buffers = st.binary(max_size=40)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            f: buffers
            for f in wire.Group.__struct_fields__
            if f not in ("answers", "parts", "reasons")
        },
    )
)
def test_arbitrary_buffers_in_a_group_are_checked(changes: dict[str, bytes]) -> None:
    try:
        group = unpack_group(msgspec.structs.replace(GROUP, **changes))
    except ProtocolError:
        return
    tokens = len(group.completion_ids)
    assert group.lengths.sum() == tokens
    assert group.sampled_lengths.sum() == len(group.logprobs) == len(group.versions)
    assert (group.sampled_lengths > 0).all()
    assert np.isfinite(group.logprobs).all()
    assert (group.logprobs <= 0).all()
