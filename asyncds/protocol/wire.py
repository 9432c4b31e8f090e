"""Every message of the control plane, and the rules that make a lost message harmless.

Roles talk to the coordinator only. What must survive a lost message is a *state* that the next
heartbeat repeats, or a request that is repeated until it is answered (`Hello`, `Delivered` …).

Arrays travel as raw little-endian buffers: int32 token ids and lengths, float32 log-probabilities
and rewards. Versions are run-length coded: pairs of (version, count) over a group's tokens.
"""

from typing import Annotated, Literal

import msgspec

from asyncds.protocol.records import RunStatus

PROTOCOL = 16
"""Both ends must have the same number; a difference is refused at `Hello`."""

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
OrNone = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
"""A number from 0, or -1 for "none yet"."""
SetName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][\w.-]{0,63}$")]
"""The name of a set of rows: a label of metrics, and part of their keys."""
EvaluationSets = Annotated[list[tuple[SetName, Whole]], msgspec.Meta(max_length=64)]
"""(name, rows) of the sets that a split consists of, in the order of its rows."""


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=True, kw_only=True):
    """Base of all messages; the tag is the class's name."""


# --- rollouts -----------------------------------------------------------------------------------


class Lease(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Work for a generator: sample `group_size` completions of row `row` and score them.

    `row` indexes the task's split `split`, "train" unless the lease is an evaluation's. Sample i
    uses the seed `seed + i`. Sampling values are the training ones or the evaluation's.
    """

    id: int
    split: Literal["train", "validation", "eval"]
    row: int
    attempt: int
    group_size: int
    seed: int
    temperature: float
    max_tokens: int
    top_p: float
    top_k: int
    min_p: float
    straggler_seconds: float
    min_group: int


class Group(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """A scored rollout group of n completions, as it crosses the wire and lies in the journal.

    prompt_ids int32 [p]; lengths int32 [n]; completion_ids int32 [Σ lengths] (with the end token);
    given int32 [spans, 2], (start, token count) in completion_ids of what was not sampled,
    ascending; logprobs float32 [sampled tokens], log μ of each with temperature applied, ≤ 0;
    versions int32 [runs, 2], (version, token count) over the sampled tokens; rewards float32 [n];
    correct uint8 [n];
    finished uint8 [n], 1 where the completion ended by itself, 0 where it was cut off;
    answers: by equivalence, the task's primary one first, the canonical answer of each completion,
    "" where there is none. parts: by name, what the rewards are made of, float32 [n].
    reasons: why a limit ended each completion, or why it has no score, "" where neither is so;
    empty where that holds for all.
    """

    prompt_ids: bytes
    lengths: bytes
    completion_ids: bytes
    logprobs: bytes
    versions: bytes
    rewards: bytes
    correct: bytes
    finished: bytes
    answers: dict[str, list[str]]
    parts: dict[str, bytes] = {}
    given: bytes = b""
    reasons: list[Annotated[str, msgspec.Meta(max_length=40)]] = []


# --- to the coordinator -------------------------------------------------------------------------


Words = Annotated[str, msgspec.Meta(max_length=200)]


class Starting(Message, frozen=True):
    """A process is being started and can't take part yet; said once, for display.

    name: that it will introduce itself with. doing: what takes the time.
    """

    name: Words
    doing: Words


class GeneratorHello(Message, frozen=True):
    """A generator introduces itself; repeated until welcomed.

    workers: engine workers (TP × PP), its places in the transfer group. capacity: sequences it
    takes at once. tokenizer, data: fingerprints that must agree with the learner's and the others'.
    rows: task rows by split. multiplicity: by equivalence, how many distinct correct answers the
    first problems of the evaluated split have, 0 where the task can't tell. sets: of this split,
    training_sets: of "train". leases: ids it works on or has not had acknowledged.
    """

    name: str
    incarnation: str
    protocol: int
    workers: Positive
    capacity: Positive
    tokenizer: str
    data: str
    rows: dict[str, Whole]
    multiplicity: dict[str, list[Whole]]
    sets: EvaluationSets
    leases: list[int]
    training_sets: EvaluationSets = []


class LearnerHello(Message, frozen=True):
    """A learner rank introduces itself; repeated until welcomed.

    incarnation: of the worker group, the same on all ranks. step: batches its weights have seen
    (that of the checkpoint after a restart).
    """

    name: str
    incarnation: str
    protocol: int
    rank: Whole
    ranks: Positive
    step: Whole
    tokenizer: str
    vocab_size: Positive


class GeneratorHeartbeat(Message, frozen=True):
    """A generator's state, every heartbeat.

    leases: as in GeneratorHello. stats: plain numbers for display (tokens_per_second, running,
    waiting, kv_use, pause_seconds, tokens, …).
    """

    leases: list[int]
    stats: dict[str, float]


class LearnerHeartbeat(Message, frozen=True):
    """A rank's state, every heartbeat and at every change.

    staged: newest version that can be sent (rank 0), -1 before the first. checkpoint: step of the
    newest durable one, -1 for none; saving: MiB so far of one it waits for. phase: for people.
    """

    rank: Whole
    staged: OrNone
    checkpoint: OrNone
    phase: str
    saving: Whole = 0


class Delivered(Message, frozen=True):
    """A finished group; repeated until acknowledged.

    attempt: of the lease it was made for, which may be an earlier one by now: the group is as good.
    score_errors: completions that could not be judged, the last because of score_error. texts: of
    some groups, for people: the prompt's, then the completions'.
    """

    lease: int
    attempt: Positive
    group: Group
    score_errors: int = 0
    score_error: str = ""
    texts: list[str] = []


class LeaseFailed(Message, frozen=True):
    """A lease that cannot be fulfilled, and why; repeated until acknowledged.

    attempt: the one that failed; if it is an earlier one by now, this changes nothing. permanent:
    another attempt would fail too (the prompt is too long, the row is bad).
    """

    lease: int
    attempt: Positive
    reason: str
    permanent: bool


class Prepared(Message, frozen=True):
    """Ready to enter weight sync `sync`.

    layout: the fingerprint of the layout (`asyncds.weights.layout`) that a generator knows, or that
    the learner will send by. From the learner only, and handed on in `Go`: version, of the weights;
    rendezvous, where to meet; tensors, the layout itself, unless `Prepare` named its fingerprint;
    checksums, one per bucket.
    """

    sync: int
    layout: str = ""
    version: OrNone = -1
    rendezvous: str = ""
    tensors: bytes = b""
    checksums: list[int] = []


class Applied(Message, frozen=True):
    """A generator has the weights of weight sync `sync` in its engine.

    checksums: one per bucket, of the bytes that arrived. probe: float32 log-probabilities of the
    fixed sequence, if asked for. pause_seconds: how long nothing was sampled, for the activation.
    """

    sync: int
    checksums: list[int]
    probe: bytes
    pause_seconds: float


class Sent(Message, frozen=True):
    """The learner has sent all of weight sync `sync`.

    checksums, probe: its own, to compare with. seconds: what sending took.
    """

    sync: int
    checksums: list[int]
    probe: bytes
    seconds: float


class SyncFailed(Message, frozen=True):
    """The sender's end of weight sync `sync` failed; its communicator is closed.

    kept: a generator's engine goes on with the weights that it had before.
    """

    sync: int
    reason: str
    kept: bool = False


class BatchRequest(Message, frozen=True):
    """A learner rank wants its shard of batch `step`; repeated until it comes.

    That also says that batches before `step` are trained. report: rank 0's metrics of the batch
    before.
    """

    rank: Whole
    step: Whole
    report: dict[str, float]


class Bye(Message, frozen=True):
    """The sender leaves in good order; what it had in work is for others."""

    reason: str = ""


class Observe(Message, frozen=True):
    """Ask for a `Status`."""


class Stop(Message, frozen=True):
    """End the run in good order: checkpoint, drain, summary. failed: because it can't go on."""

    reason: str
    failed: bool = False


# --- from the coordinator -----------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The introduction was accepted. id: of the run, unlike any other's."""

    id: str = ""


class Refused(Message, frozen=True):
    """The introduction was not accepted; the process should exit with this sentence."""

    reason: str


class GivenUp(Message, frozen=True):
    """The answer to the introduction of a generator that was taken for dead.

    Its leases are others' by now. It may introduce itself again, as another incarnation that holds
    nothing.
    """

    reason: str


class Identify(Message, frozen=True):
    """The coordinator does not know the sender (it restarted): say hello again."""


class Grant(Message, frozen=True):
    """New work."""

    leases: list[Lease]


class Ack(Message, frozen=True):
    """The leases are in the journal (or settled otherwise) and may be forgotten.

    Also the answer to a generator's heartbeat, then often with no leases.
    """

    leases: list[int]


class LearnerAck(Message, frozen=True):
    """The answer to a learner's heartbeat.

    keep: checkpoints that must not be deleted, by step. evaluating: an evaluation is under way, so
    that neither a batch nor the end is overdue.
    """

    keep: list[int]
    evaluating: bool


class Cancel(Message, frozen=True):
    """Stop working on these leases; nothing needs to be delivered."""

    leases: list[int]


class Prepare(Message, frozen=True):
    """Get ready to receive (or, learner, to send the newest staged version) in group `epoch`.

    rank: the first place of the receiver in the group of `world_size`. probe: compare log-probs.
    deadline: seconds the transfer may take. layout: for the learner, the fingerprint of the layout
    that the coordinator has.
    """

    sync: int
    epoch: int
    rank: int
    world_size: int
    probe: bool
    deadline: float
    layout: str = ""


class Go(Message, frozen=True):
    """Everybody is ready: enter the transfer of `version`.

    layout: the fingerprint of its layout. tensors: that layout itself, empty for a generator that
    said it knows it. checksums: of the learner's buckets.
    """

    sync: int
    version: int
    rendezvous: str
    layout: str
    tensors: bytes
    checksums: list[int]


class SyncAborted(Message, frozen=True):
    """Weight sync `sync` is off; leave it. refused: what came is not what the learner has."""

    sync: int
    reason: str
    refused: bool = False


class Batch(Message, frozen=True):
    """A rank's shard (asyncds.protocol.batch.Shard), arrays as raw buffers in its field order."""

    step: int
    rank: int
    leases: list[int]
    table: list[bytes]
    generators: list[str]
    arrays: list[bytes]


class Finish(Message, frozen=True):
    """No more batches: write the last checkpoint, publish the last weights, keep the heartbeat."""

    reason: str


class Drain(Message, frozen=True):
    """Nothing more to do: leave in good order, exit 0."""

    reason: str


class Dump(Message, frozen=True):
    """The run does not move: write down what this process is doing."""

    reason: str


class Status(Message, frozen=True):
    """The answer to `Observe`: the run at a glance."""

    run: RunStatus


ToCoordinator = (
    Starting
    | GeneratorHello
    | LearnerHello
    | GeneratorHeartbeat
    | LearnerHeartbeat
    | Delivered
    | LeaseFailed
    | Prepared
    | Applied
    | Sent
    | SyncFailed
    | BatchRequest
    | Bye
    | Observe
    | Stop
)
FromCoordinator = (
    Welcome
    | Refused
    | GivenUp
    | Identify
    | Grant
    | Ack
    | LearnerAck
    | Cancel
    | Prepare
    | Go
    | SyncAborted
    | Batch
    | Finish
    | Drain
    | Dump
    | Status
)
