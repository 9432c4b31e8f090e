"""Records of a run: what is known of a trained batch, of an evaluation, and of the run just now.

They travel and are kept as these types. People and tools read them as JSON: `StepRecord.line` is a
line of metrics.jsonl, `EvaluationRecord.result` an entry of `eval` in summary.json, and
`RunStatus.plain` is status.json of the live page. Those keys may be relied on.

Inside the system a batch has the number of its step, from 0; people count batches from 1. The line
is where the one becomes the other.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec


class RecordError(ValueError):
    """Values that are not a record of the kind that was asked for; the message says why."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""


# --- a trained batch ----------------------------------------------------------------------------


class TaskBatch(Record, frozen=True, kw_only=True):
    """Facts of the groups of one task in a batch.

    reward, length: means over completions; correct: share of them. zero_groups: share of groups in
    which no completion has an advantage.
    """

    groups: int
    reward: float
    correct: float
    length: float
    zero_groups: float


class BatchFacts(Record, frozen=True, kw_only=True):
    """Facts of a batch that are known without a model.

    tokens: sampled ones. length: mean of them in a completion; given: mean of those that an
    environment gave; turns: mean times that it was the policy's turn. truncated, correct: shares of
    completions. mixed_groups, solved_groups: shares of groups with correct and incorrect
    completions, with correct ones; teaching_groups: in which a completion has an advantage, None in
    records of earlier versions. distinct_correct: mean distinct correct answers of a group,
    under the primary equivalence; distinct: the same by equivalence. top_share, self_overlap: means
    over groups with correct completions, None where there are none. Lags are in weight versions, at
    consumption. parts: mean of each part of the reward, by name. tasks: the same of each task's
    groups, by its name, where there are several.
    """

    groups: int
    sequences: int
    tokens: int
    length: float
    truncated: float
    reward: float
    correct: float
    mixed_groups: float
    solved_groups: float
    distinct_correct: float
    distinct: dict[str, float]
    top_share: float | None
    self_overlap: float | None
    lag_mean: float
    lag_max: int
    parts: dict[str, float] = {}
    given: float = 0.0
    turns: float = 1.0
    teaching_groups: float | None = None
    tasks: dict[str, TaskBatch] = {}


class CurriculumFacts(Record, frozen=True, kw_only=True):
    """How difficult the problems are that came so far.

    problems: how many those are. solved, hopeless, between: shares of them, by their last groups.
    mixed: share of those whose last group had right and wrong completions, which is what the share
    of such groups would be if all came equally often.
    """

    problems: int
    solved: float
    hopeless: float
    between: float
    mixed: float


class StepRecord(Record, frozen=True, kw_only=True):
    """A trained batch.

    step: its number, from 0. version: of the weights after it. time: when its report came, seconds
    since the epoch. batch: None if its samples were deleted before the report came. learner: what
    the learner measured, by name; NaN where that is not defined. wall_seconds: of the run until
    then. tokens_per_second: trained ones, over the last steps, None before the second. outstanding,
    buffered: groups between lease and training, and of these delivered. healthy: generators that
    serve. sync_seconds, pause_seconds: of the last weight sync, None before the first. curriculum:
    None in records of earlier versions.
    """

    step: int
    version: int
    time: float
    batch: BatchFacts | None
    learner: dict[str, float]
    wall_seconds: float
    tokens_per_second: float | None
    generated_tokens_per_second: float
    outstanding: int
    buffered: int
    healthy: int
    sync_seconds: float | None
    pause_seconds: float | None
    curriculum: CurriculumFacts | None = None

    def line(self) -> dict[str, Any]:
        """The flat line of metrics.jsonl.

        Steps count from 1; `learner/NAME`, `distinct/NAME`, and `reward/NAME` for parts of rewards,
        `task/NAME/…` for the facts of a task, `curriculum/…`; None for a learner's number that is
        not finite.
        """
        values = msgspec.to_builtins(self)
        batch, learner = values.pop("batch") or {}, values.pop("learner")
        distinct, parts = batch.pop("distinct", {}), batch.pop("parts", {})
        tasks, curriculum = batch.pop("tasks", {}), values.pop("curriculum") or {}
        return {
            **values,
            "step": self.step + 1,
            **batch,
            **{f"distinct/{name}": value for name, value in distinct.items()},
            **{f"reward/{name}": value for name, value in parts.items()},
            **{f"task/{t}/{name}": v for t, facts in tasks.items() for name, v in facts.items()},
            **{f"curriculum/{name}": value for name, value in curriculum.items()},
            **{f"learner/{k}": v if math.isfinite(v) else None for k, v in learner.items()},
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "StepRecord":
        """The record of a line. Raises RecordError."""
        named: dict[str, dict[str, Any]] = {
            name: {} for name in ("curriculum", "distinct", "learner", "reward", "task")
        }
        values: dict[str, Any] = {"batch": None}
        for key, value in line.items():
            kind, _, name = key.partition("/")
            if name and kind in named:
                named[kind][name] = math.nan if value is None else value
            else:
                values[key] = value
        if "groups" in values:
            tasks: dict[str, dict[str, Any]] = {}
            for key, value in named["task"].items():
                task, _, name = key.rpartition("/")
                tasks.setdefault(task, {})[name] = value
            values["batch"] = values | {
                "distinct": named["distinct"],
                "parts": named["reward"],
                "tasks": tasks,
            }
        values |= {"learner": named["learner"], "curriculum": named["curriculum"] or None}
        record: StepRecord = _convert(values, cls)
        return msgspec.structs.replace(record, step=record.step - 1)


# --- an evaluation ------------------------------------------------------------------------------


class EvaluationNumbers(Record, frozen=True, kw_only=True):
    """The numbers over the problems of an evaluation, or of one of its sets.

    n_problems: those that have samples, of which all other numbers are. n_failed: those that have
    none, since their prompts are too long or all attempts failed. pass_at_k: by k, written as a
    number. Intervals are [low, high], 95 %. distinct, multiplicity: by equivalence; `equivalence`
    is the primary one, "" where problems differ in it. Numbers that are not defined for any problem
    are None; n_defined: for how many each is.
    """

    n_problems: int
    n_failed: int = 0
    pass_at_k: dict[str, float] = msgspec.field(name="pass@k")
    pass_at_k_interval: dict[str, list[float]] = msgspec.field(name="pass@k_interval")
    equivalence: str
    distinct_correct: float
    distinct_correct_interval: list[float]
    distinct: dict[str, float]
    solution_multiplicity: float | None
    multiplicity: dict[str, float | None]
    top_share: float | None
    self_overlap: float | None
    normalised_variance: float | None
    entropy: float | None
    n_defined: dict[str, int]


class EvaluationRecord(EvaluationNumbers, frozen=True, kw_only=True):
    """The result of a finished evaluation (docs/evaluation.md says what the numbers mean).

    id: in the journal. version, step: of the weights, and the batches they had seen. sets: the same
    numbers over each evaluation set, by its name, in the order of the rows. failure: why samples
    are missing, "" if none are. made_by: the run that made it, "" if this one did.
    """

    id: int
    version: int
    step: int
    split: str
    temperature: float
    n_samples: int
    sets: dict[str, EvaluationNumbers] = {}
    failure: str = ""
    made_by: str = ""

    def result(self) -> dict[str, Any]:
        """The entry of `eval` in summary.json."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> "EvaluationRecord":
        """The record of such an entry. Raises RecordError."""
        record: EvaluationRecord = _convert(result, cls)
        return record


# --- the run just now ---------------------------------------------------------------------------


class LearnerStatus(Record, frozen=True, kw_only=True):
    """The learner.

    step: batches trained. version: newest staged weights. last_seen: seconds since a rank spoke,
    None if none ever did. idle_fraction: share of the last step spent waiting.
    """

    phase: str = "not here"
    step: int = 0
    version: int = -1
    last_seen: float | None = None
    idle_fraction: float | None = None


class MemberStatus(Record, frozen=True, kw_only=True):
    """A generator.

    version: of its verified weights, -1 if unknown. lag: how far they are behind the published
    ones, None if unknown. leases: that it works on. kv_use: share of its KV cache. last_seen:
    seconds since it spoke. mismatch: mean KL of its policy and the learner's in the last step,
    nats.
    """

    name: str
    health: str
    version: int
    lag: int | None = None
    leases: int = 0
    tokens_per_second: float | None = None
    kv_use: float | None = None
    last_seen: float
    mismatch: float | None = None


class SyncStatus(Record, frozen=True, kw_only=True):
    """The weight sync under way."""

    id: int
    phase: str
    version: int


class RoundStatus(Record, frozen=True, kw_only=True):
    """The evaluation round under way: groups done of all."""

    version: int
    done: int
    total: int


class HeldOutStatus(Record, frozen=True, kw_only=True):
    """The newest evaluation over one evaluation set, or over all held-out problems (name "").

    pass_, base_pass: Pass@k by k, now and of the base model.
    """

    name: str
    n_problems: int
    n_failed: int
    pass_: dict[str, float] = msgspec.field(name="pass")
    base_pass: dict[str, float]


class History(Record, frozen=True, kw_only=True):
    """The last steps, oldest first."""

    reward: list[float | None] = []


class RunStatus(Record, frozen=True, kw_only=True):
    """The run at a glance; the defaults are those of a run of which nothing is known yet.

    over: processes that leave are meant to. message: what people should know, or "". waiting_for:
    who waits for whom. step: batches trained. version: of the published weights. sync_seconds,
    pause_seconds: of the last weight sync. page: address of the live page, or "". revision: differs
    from the one before if charts or rollouts may. dropped: groups given up, by reason. elapsed:
    wall time, seconds. reward to lag_max: of the last trained batch. pass_, base_pass: Pass@k by k
    of the newest evaluation and of the base model's. held_out: these over all problems, and over
    each evaluation set.
    """

    name: str = ""
    state: str = "starting"
    over: bool = False
    message: str = ""
    step: int = 0
    steps: int | None = None
    version: int = 0
    max_lag: int | None = None
    outstanding: int = 0
    buffered: int = 0
    waiting_for: str = ""
    sync_seconds: float | None = None
    pause_seconds: float | None = None
    learner: LearnerStatus = LearnerStatus()
    sync: SyncStatus | None = None
    evaluation: RoundStatus | None = None
    fleet: list[MemberStatus] = []
    page: str = ""
    revision: str = ""
    dropped: dict[str, int] = {}
    elapsed: float | None = None
    reward: float | None = None
    correct: float | None = None
    distinct_correct: float | None = None
    lag_mean: float | None = None
    lag_max: int | None = None
    pass_: dict[str, float] | None = msgspec.field(default=None, name="pass")
    base_pass: dict[str, float] | None = None
    held_out: list[HeldOutStatus] = []
    generated_tokens_per_second: float | None = None
    trained_tokens_per_second: float | None = None
    history: History = History()

    def plain(self) -> dict[str, Any]:
        """status.json of the live page."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


def _convert(values: Mapping[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise RecordError(str(error)) from error
