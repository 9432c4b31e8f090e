"""The configuration of a run: every field, its default and what it means.

A run is one YAML file of this shape; `asyncds config schema` prints it as JSON Schema, and
`asyncds config show FILE` prints a file with every default written out. Unknown keys are refused.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from asyncds.algo.advantages.base import Advantage, Sequences
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.overlong import OverlongMask, OverlongPenalty
from asyncds.choices.open_kind import OpenKind
from asyncds.config.section import Section
from asyncds.config.tasks import AnyTask, CountdownTask
from asyncds.config.trackers import Tracker

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""


class SamplingConfig(Section):
    """How training rollouts are sampled."""

    temperature: float = Field(1.0, gt=0)
    """Logits are divided by this; the learner divides its own by the same."""
    max_tokens: int = Field(8, ge=1)
    """Longest completion, in tokens."""
    top_p: float = 1.0
    """Must be 1: truncated sampling makes the recorded behaviour log-probability wrong."""
    top_k: int = -1
    """Must be -1 (off), for the same reason."""
    min_p: float = 0.0
    """Must be 0 (off), for the same reason."""

    @model_validator(mode="after")
    def _no_truncation(self) -> "SamplingConfig":
        if (self.top_p, self.top_k, self.min_p) != (1.0, -1, 0.0):
            raise ValueError(
                "training rollouts must be sampled without truncation, or their log-probabilities "
                "are not those of the policy: set sampling.top_p to 1, top_k to -1 and min_p to 0 "
                "(evaluation may truncate: eval.top_p, eval.top_k)"
            )
        return self


class DynamicSamplingConfig(Section):
    """Groups that teach nothing are replaced by others. docs/algorithms.md says which they are."""

    enabled: bool = False
    """Drop groups in which no rollout has a shaped advantage, and sample new prompts instead."""
    max_dropped: int = Field(4, ge=1)
    """Most groups dropped for every batch of groups kept, in batches; further ones are kept as
    they are, so that a task that is solved, or hopeless, does not keep the learner waiting."""


class RolloutConfig(Section):
    """Batches, and how stale a rollout may be. docs/staleness.md explains the rule."""

    groups_per_step: int = Field(32, ge=1)
    """Prompts in one training batch."""
    group_size: int = Field(8, ge=1)
    """Completions sampled for each prompt."""
    max_lag: int = Field(4, ge=0)
    """Hard bound: no token trained on is older than this many weight versions. 0 is exactly
    synchronous training."""
    target_lag: int | None = Field(None, ge=0)
    """Pacing aims at this lag; default: max_lag, or 2 if that is less."""
    hold: bool = False
    """Keep groups back until they are target_lag versions old: for studying staleness, since it
    does nothing but harm. docs/staleness.md"""
    window: int | None = Field(None, ge=1)
    """A batch is chosen from this many oldest unfinished groups, so younger ones may pass a
    straggler, but not for ever. Default: twice groups_per_step."""
    straggler_seconds: Seconds = 120
    """After this long a group is delivered with the completions it has, if at least min_group. Time
    in which its engine was paused for new weights does not count."""
    min_group: int | None = Field(None, ge=1)
    """Fewest completions a straggling group may be delivered with. Default: half of group_size,
    at least 2."""
    lease_seconds: Seconds = 300
    """A generator that has not delivered a group after this long loses it to another."""
    max_attempts: int = Field(3, ge=1)
    """How often a group may fail before it is recorded as failed. Generators that leave while they
    work on it do not count; of those that die, every third in a row does."""
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()

    @property
    def resolved_target_lag(self) -> int:
        return min(2, self.max_lag) if self.target_lag is None else self.target_lag

    @property
    def resolved_window(self) -> int:
        return 2 * self.groups_per_step if self.window is None else self.window

    @property
    def resolved_min_group(self) -> int:
        default = min(self.group_size, max(2, self.group_size // 2))
        return default if self.min_group is None else self.min_group

    @model_validator(mode="after")
    def _reachable(self) -> "RolloutConfig":
        if self.resolved_target_lag > self.max_lag:
            raise ValueError(
                f"target_lag {self.target_lag} is above max_lag {self.max_lag}, so every group "
                "would be thrown away: lower target_lag or raise max_lag"
            )
        if self.resolved_window < self.groups_per_step:
            raise ValueError(
                f"a batch of groups_per_step {self.groups_per_step} can never be filled from a "
                f"window of {self.resolved_window} groups: raise window to at least "
                f"{self.groups_per_step}"
            )
        if self.resolved_min_group > self.group_size:
            raise ValueError(
                f"min_group {self.min_group} is above group_size {self.group_size}: lower it"
            )
        if self.lease_seconds <= self.straggler_seconds:
            raise ValueError(
                f"lease_seconds {self.lease_seconds:g} must be longer than straggler_seconds "
                f"{self.straggler_seconds:g}, or no straggling group could deliver its survivors"
            )
        return self


class GeneratorConfig(Section):
    """The vLLM generators."""

    replicas: int = Field(1, ge=1)
    """How many generators `asyncds run` starts. More may join from elsewhere at any time."""
    model: str | None = None
    """Where engines load their first weights from, if not from the run's model. The learner's
    weights replace them before anything is sampled."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs one generator's layers are split over."""
    pipeline_parallel: int = Field(1, ge=1)
    """GPUs one generator's layers are spread over."""
    max_model_len: int | None = Field(None, ge=2)
    """Longest prompt and completion together; default: the model's own limit."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences a generator decodes at once."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of a GPU's memory that vLLM may use."""
    kv_cache_gb: float = Field(1.0, gt=0)
    """Memory for the KV cache where there is no GPU, in GiB."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads vLLM computes with where there is no GPU; default: all cores but those of the
    learner's ranks, at least one."""
    enforce_eager: bool = True
    """Skip compilation and CUDA graphs: starts faster; turn off for long runs on GPUs."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Anything else for vLLM's AsyncEngineArgs."""
    start_seconds: Seconds = 600
    """Deadline for an engine to load and start."""


class ScoringConfig(Section):
    """How completions are turned into rewards: in other processes, under limits."""

    backend: Literal["processes", "ray"] = "processes"
    """Where the scorer processes run: beside the generator, or, for heavy rewards, on the CPUs of a
    Ray cluster (needs `asyncds[ray]`, here and on the cluster's nodes)."""
    ray_address: str | None = None
    """The Ray cluster: `host:port`, `ray://host:port`, or `auto` for the one on this machine.
    Default: every generator starts one of its own, on this machine."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs of the Ray cluster that a scorer process reserves."""
    workers: int = Field(1, ge=1)
    """Scorer processes per generator."""
    timeout_seconds: Seconds = 10
    """Longest time for one completion; over it the reward is 0 and the error is counted."""
    memory_mb: int = Field(1024, ge=64)
    """Address space a scorer process may use, in MiB."""

    @model_validator(mode="after")
    def _address_is_used(self) -> "ScoringConfig":
        if self.ray_address is not None and self.backend != "ray":
            raise ValueError("ray_address is for a Ray cluster: set backend to ray too")
        return self


class LearnerConfig(Section):
    """The DeepSpeed learner."""

    ranks: int = Field(1, ge=1)
    """Processes (GPUs) that `asyncds run` starts."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: 1 shards the optimizer, 2 gradients too, 3 parameters too."""
    lr: float = Field(1e-6, gt=0)
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after warm-up; linear and cosine end at 0."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's β1 and β2."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's ε."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns clipping off."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Most tokens, padding included, in one forward pass of a rank. Never changes the gradient."""
    logprob_chunk_tokens: int = Field(2048, ge=1)
    """Positions whose logits over the whole vocabulary exist at once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    cpu_threads: int = Field(1, ge=1)
    """Threads per rank where there is no GPU."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Merged into the DeepSpeed configuration (offload, communication settings, …)."""
    batch_seconds: Seconds = 1800
    """Deadline for a batch to arrive; over it the learner stops with a message."""
    collective_seconds: Seconds = 600
    """Deadline for communication between ranks."""


class WeightsConfig(Section):
    """How new weights reach the running generators."""

    transport: Literal["auto", "nccl", "gloo"] = "auto"
    """`auto`: nccl where there are GPUs, else gloo."""
    publish_every: int = Field(1, ge=1)
    """Optimizer steps (training batches) per weight version."""
    bucket_mb: int = Field(64, ge=1)
    """Size of the flat buffers that are broadcast, in MiB."""
    host: str = "127.0.0.1"
    """Address of the learner's rank 0 that generators can reach."""
    prepare_seconds: Seconds = 30
    """Deadline for every member to agree to a broadcast; who does not is left out."""
    transfer_seconds: Seconds = 120
    """Deadline for a broadcast; over it the group is rebuilt and the version sent again. With a
    group that has served before it is 20 times what its broadcasts took, if that is less, and 10 s
    at least."""
    probe_every: int = Field(10, ge=1)
    """Besides a generator's first, every n-th update is checked by comparing log-probabilities of
    a fixed sequence on both sides. Checksums are compared at every update."""
    probe_tolerance: float | None = Field(None, gt=0)
    """Largest mean absolute difference of those log-probabilities; default 1e-3 for float32, 0.1
    for bfloat16."""


class EvalConfig(Section):
    """Held-out evaluation on pinned weights: of the base model, while training, of the result."""

    every: int = Field(0, ge=0)
    """Steps between evaluations while training; 0: only the base model and the result."""
    n_problems: int | None = Field(None, ge=1)
    """How many held-out problems; default: all."""
    n_samples: int = Field(64, ge=1)
    """Completions per problem for the base model and the result."""
    interim_samples: int = Field(16, ge=1)
    """Completions per problem for evaluations while training."""
    split: Literal["eval", "validation"] = "eval"
    """Which held-out problems. Tune on `validation` and report on `eval`."""
    temperatures: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (1.0,), min_length=1
    )
    """Sampling temperatures: every evaluation samples each problem at each of them, and has one
    result for each. Live displays show the first."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling, if below 1."""
    top_k: int = Field(-1, ge=-1)
    """Sample from this many most likely tokens; -1: all."""
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = (1, 4, 16, 64)
    """The k of Pass@k. Those above the number of samples are left out."""

    @model_validator(mode="after")
    def _different_temperatures(self) -> "EvalConfig":
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(
                f"temperatures {list(self.temperatures)} has one twice: name each once"
            )
        return self


class CheckpointConfig(Section):
    """When the learner saves, and what is kept."""

    every: int = Field(50, ge=1)
    """Steps between checkpoints; one more is written at the end."""
    keep_last: int = Field(2, ge=1)
    """Older ones are deleted."""
    keep_best: bool = True
    """Keep one more, if it is older: the one whose weights reached the highest Pass@k of all that
    were evaluated, at the first of eval.pass_at and the first of eval.temperatures. Evaluate every
    so many steps (eval.every) that a checkpoint is written at (checkpoint.every)."""


class CurveConfig(Section):
    """Key files of encrypted links (`asyncds keys` makes them): a process reads those of its role.
    docs/security.md says who needs which."""

    server_secret: str
    """File with the coordinator's secret key; for the coordinator."""
    clients: str
    """Directory of the public keys that are let in; for the coordinator."""
    server_public: str
    """File with the coordinator's public key; for everyone else."""
    client_secret: str
    """File with the process's own secret key; for everyone else."""


class CoordinatorConfig(Section):
    """The coordinator and the links to it."""

    host: str = "127.0.0.1"
    """Address the coordinator binds and the others connect to."""
    port: Port = 0
    """Port of the control plane; 0 picks a free one (`asyncds run` only)."""
    curve: CurveConfig | None = None
    """Encrypt and authenticate the links with these keys; default: neither."""
    allow_unencrypted: bool = False
    """Bind an address other than loopback although `curve` is not set."""
    heartbeat_seconds: Seconds = 1
    """How often every process reports."""
    suspect_seconds: Seconds = 10
    """After this long without a word a generator gets no new work."""
    dead_seconds: Seconds = 60
    """After this long it is dead, and its work goes to others."""
    watch_seconds: Seconds = 300
    """After this long without any progress the log says who waits for whom, and every process
    writes what it is doing to `dumps` in the run directory; again every so often."""
    stall_seconds: Seconds = 1800
    """After this long without any progress the run ends as failed, saying who waits for whom."""
    lost_seconds: Seconds = 600
    """After this long without a coordinator a generator or learner gives up."""
    journal_gb: float = Field(20.0, gt=0)
    """What the journal may take of the disk, in GiB. Beyond it the oldest samples are deleted that
    no restart can need (those of groups that were trained before the oldest checkpoint that is
    kept, dropped, or of evaluations that are finished); the numbers about them stay."""
    stay: bool = False
    """When the run is over the coordinator stays until SIGTERM: it tells whoever comes late to
    leave, and its metrics say how the run ended. For supervisors that start again what ends."""

    @model_validator(mode="after")
    def _ordered(self) -> "CoordinatorConfig":
        if not self.heartbeat_seconds < self.suspect_seconds < self.dead_seconds:
            raise ValueError(
                "heartbeat_seconds < suspect_seconds < dead_seconds must hold: raise the later one"
            )
        loopback = self.host in ("127.0.0.1", "localhost")
        if not loopback and self.curve is None and not self.allow_unencrypted:
            raise ValueError(
                f"the control plane is not encrypted and will not bind {self.host}: set "
                "coordinator.curve (`asyncds keys` makes the keys), keep coordinator.host at "
                "127.0.0.1, or set coordinator.allow_unencrypted to true if everyone who can reach "
                "that address may control the run"
            )
        return self


class SupervisionConfig(Section):
    """What `asyncds run` and `asyncds sweep` do about processes of theirs that die, leave before
    the run is over, or hang: they are started again. Others have their own supervisor."""

    max_restarts: int = Field(3, ge=0)
    """How often a process is started again within window_seconds; then the run ends."""
    window_seconds: Seconds = 3600
    """Restarts that are longer ago do not count."""
    silent_seconds: Seconds = 300
    """A process that was there and then not heard of for this long is killed."""
    start_seconds: Seconds = 1800
    """The same for one that is starting: for it to load its model and introduce itself."""


class TracesConfig(Section):
    """Traces of leases and of broadcasts of weights, sent over OTLP and HTTP (needs
    `asyncds[otel]`). What a collector asks for besides is in the environment of every process, as
    OpenTelemetry names it: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE."""

    endpoint: str = Field(pattern=r"^https?://.")
    """The collector, such as `http://127.0.0.1:4318`; every process must reach it."""
    sample: Fraction = 1.0
    """The share of leases and of broadcasts that is traced."""


class TelemetryConfig(Section):
    """Metrics over HTTP: /metrics, /healthz and /readyz on every process, and the live page of the
    run at / of the coordinator."""

    host: str = "127.0.0.1"
    """Address the metrics servers bind."""
    port: Port = 0
    """First port: the coordinator takes it, learner ranks and generators the next ones; 0 picks
    free ones (they are printed in the log of each process)."""
    page: bool | None = None
    """Whether the coordinator serves the live page, which shows rollouts to everyone who can reach
    `host`. Default: where `host` is loopback."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics, evaluations, summary and configuration are sent besides. The name of a kind
    alone takes its defaults: `[tensorboard]`."""
    traces: TracesConfig | None = None
    """Where traces are sent. Default: nothing is traced."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> "TelemetryConfig":
        kinds = [tracker.kind for tracker in self.trackers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"trackers {kinds} has one twice: name each once")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the servers."""
        return self.host in LOOPBACK


class RunConfig(Section):
    """A run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's directory is `<runs_dir>/<name>`."""
    label: str | None = Field(None, min_length=1)
    """What the run is called in comparisons; runs of equal label are one group. Default: runs that
    differ in base model and seed alone are, and it is called after its settings."""
    runs_dir: str = "runs"
    """Where run directories are made."""
    model: str = Field(min_length=1)
    """The base model: a Hugging Face directory, or a hub id."""
    tokenizer: str | None = None
    """Its tokenizer, if not in the model's directory."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations in the learner and the generators."""
    seed: int = Field(0, ge=0)
    """Seed of everything that is random."""
    steps: int = Field(100, ge=0)
    """Training batches (optimizer steps, unless algorithm.updates_per_batch is above 1). 0: nothing
    is trained, there is no learner, and the model is evaluated as it is (`asyncds eval`)."""
    task: AnyTask = CountdownTask()
    """What is trained on."""
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    generator: GeneratorConfig = GeneratorConfig()
    scoring: ScoringConfig = ScoringConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; if not, there is no learner."""
        return self.steps > 0

    @property
    def learner_ranks(self) -> int:
        """Processes that train: learner.ranks, or none."""
        return self.learner.ranks if self.trains else 0

    @property
    def probe_tolerance(self) -> float:
        """Largest mean |Δ log p| of the probe, in nats."""
        default = 1e-3 if self.dtype == "float32" else 0.1
        return default if self.weights.probe_tolerance is None else self.weights.probe_tolerance

    def resolved(self) -> "RunConfig":
        """The same with the algorithm's kinds of the person's own imported and made. Raises
        ValueError (KindError) if that can't be done, or they make no sense together."""
        made = self.model_copy(update={"algorithm": self.algorithm.resolved()})
        made._check_advantage()
        return made

    @model_validator(mode="after")
    def _evaluated_split_is_there(self) -> "RunConfig":
        if self.eval.split == "validation" and not getattr(self.task, "n_validation", 1):
            raise ValueError(
                "eval.split is validation, and task.n_validation 0 holds no problems out for it: "
                "raise it"
            )
        return self

    @model_validator(mode="after")
    def _silence_is_longer_than_a_pause(self) -> "RunConfig":
        if self.supervision.silent_seconds <= self.coordinator.suspect_seconds:
            raise ValueError(
                f"supervision.silent_seconds {self.supervision.silent_seconds:g} must be longer "
                f"than coordinator.suspect_seconds {self.coordinator.suspect_seconds:g}: raise it"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        fewest = self.rollout.groups_per_step * self.rollout.resolved_min_group
        if fewest < self.learner.ranks * self.algorithm.updates_per_batch:
            raise ValueError(
                f"a batch may have as few as {fewest} sequences (groups_per_step × min_group), too "
                f"few for {self.learner.ranks} learner ranks × {self.algorithm.updates_per_batch} "
                "updates: raise rollout.groups_per_step or lower learner.ranks"
            )
        if self.algorithm.updates_per_batch > self.rollout.groups_per_step:
            raise ValueError(
                f"{self.rollout.groups_per_step} groups can't be split into "
                f"{self.algorithm.updates_per_batch} updates: lower algorithm.updates_per_batch"
            )
        self._check_advantage()
        overlong = self.algorithm.overlong
        if (
            isinstance(overlong, OverlongPenalty)
            and overlong.buffer_tokens > self.sampling.max_tokens
        ):
            raise ValueError(
                f"algorithm.overlong.buffer_tokens {overlong.buffer_tokens} is more than the "
                f"sampling.max_tokens {self.sampling.max_tokens} of a completion: lower it"
            )
        if self.steps % self.weights.publish_every:
            raise ValueError(
                f"the weights after the last of {self.steps} steps would never be published: make "
                f"steps a multiple of weights.publish_every {self.weights.publish_every}"
            )
        room = self.generator.max_model_len
        if room is not None and room <= self.sampling.max_tokens:
            raise ValueError(
                f"generator.max_model_len {room} leaves no room for a prompt beside "
                f"sampling.max_tokens {self.sampling.max_tokens}: raise it"
            )
        return self

    def _check_advantage(self) -> None:
        k = getattr(self.algorithm.advantage, "k", 1)
        if k > self.rollout.group_size:
            raise ValueError(
                f"algorithm.advantage.k {k} asks for more completions than the "
                f"rollout.group_size {self.rollout.group_size} that a group has: lower k"
            )
        own = isinstance(self.algorithm.advantage, OpenKind)  # judged once it is resolved
        if self.rollout.dynamic_sampling.enabled and not own:
            self._some_groups_carry_signal_and_some_do_not()

    def _some_groups_carry_signal_and_some_do_not(self) -> None:
        advantage, n = self.algorithm.advantage, self.rollout.group_size
        solved, hopeless = (_carries_signal(advantage, [verdict] * n) for verdict in (True, False))
        if solved and hopeless and not isinstance(self.algorithm.overlong, OverlongMask):
            raise ValueError(
                f"{advantage.kind} with these settings gives every group an advantage, so dynamic "
                "sampling would never drop one: set rollout.dynamic_sampling.enabled to false, or "
                "one of algorithm.advantage.gamma_p and gamma_n to 0"
            )
        if n == 1 and not solved and not hopeless:
            raise ValueError(
                f"{advantage.kind} compares the rollouts of a group, so that every group of one "
                "would be dropped: raise rollout.group_size, or set "
                "rollout.dynamic_sampling.enabled to false"
            )


def _carries_signal(advantage: Advantage, verdicts: list[bool]) -> bool:
    """Whether a group of equally likely one-token rollouts with these verdicts has an advantage."""
    n = len(verdicts)
    group = Sequences(
        reward=np.array(verdicts, dtype=np.float64),
        correct=np.array(verdicts),
        group=np.zeros(n, dtype=np.int64),
        length=np.ones(n, dtype=np.int64),
        logprob_sum=np.full(n, -1.0),
    )
    return bool(advantage.signal(group).any())
