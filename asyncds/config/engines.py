"""The configuration of what computes: generators, scorers, the learner and its weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from asyncds.config.lora import LoraConfig
from asyncds.config.passed_on import refused_deepspeed, refused_engine_args
from asyncds.config.section import Fraction, Seconds, Section

Beta = Annotated[float, Field(ge=0, lt=1)]
RECOMPUTED_FROM = 1_000_000_000
"""Parameters from which learner.gradient_checkpointing auto recomputes activations."""
BYTES_PER_PARAMETER = 18
"""In a checkpoint, at most: weights twice in bfloat16, or once in float32, and the optimizer's."""


class GeneratorConfig(Section):
    """The vLLM generators."""

    replicas: int = Field(1, ge=1)
    """How many generators `asyncds run` starts. More may join from elsewhere at any time."""
    model: str | None = Field(None, min_length=1)
    """Where engines load their first weights from, if not from the run's model. The learner's
    weights replace them before anything is sampled."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs one generator's layers are split over."""
    pipeline_parallel: int = Field(1, ge=1)
    """GPUs one generator's layers are spread over."""
    max_model_len: int | None = Field(None, ge=2)
    """Longest prompt and completion together; default: the model's own limit."""
    max_num_seqs: int = Field(256, ge=1, le=65536)
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
    """Anything else for vLLM's AsyncEngineArgs. What has a setting here, or would keep weights from
    arriving, is refused by name."""
    start_seconds: Seconds = 600
    """Deadline for an engine to load and start."""

    @model_validator(mode="after")
    def _engine_args_are_for_vllm(self) -> "GeneratorConfig":
        if problems := refused_engine_args(self.engine_args):
            raise ValueError("; ".join(problems))
        return self


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
    episodes: int = Field(32, ge=1, le=4096)
    """Episodes of an environment that are open at once in a generator, each in a process of its
    own; further ones wait. These processes are started as they are needed."""
    timeout_seconds: Seconds = 10
    """Longest time for one completion, or for an environment's start, step or close; over it the
    reward is 0 and the error is counted."""
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
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's β1 and β2."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's ε."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    decay_vectors: bool = False
    """Whether norms and biases decay too. Hugging Face's Trainer, like most, leaves them alone."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns clipping off."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Most tokens, padding included, in one forward pass of a rank. Never changes the gradient."""
    share_prompts: bool = True
    """Compute a prompt once for several completions of its group where that is less work: short
    completions or long prompts, in a model of full attention. Never changes the gradient."""
    logprob_chunk_tokens: int = Field(2048, ge=1)
    """Positions whose logits over the whole vocabulary exist at once."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: a third more time for a fraction of their memory.
    `auto`: for models of a billion parameters and more."""
    lora: LoraConfig | None = None
    """Train an adapter instead of the model's own weights, of which no gradient and no optimizer
    state is kept then: `{}` for the defaults."""
    cpu_threads: int = Field(1, ge=1)
    """Threads per rank where there is no GPU."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Merged into the DeepSpeed configuration (offload to the CPU, communication settings, …). What
    has a setting here is refused by name. `{zero_optimization: {offload_optimizer: {device: cpu}}}`
    keeps the optimizer in main memory, and needs a C++ compiler at its first start."""
    batch_seconds: Seconds = 1800
    """Deadline for a batch to arrive; over it the learner stops with a message."""
    collective_seconds: Seconds = 600
    """Deadline for communication between ranks."""

    @model_validator(mode="after")
    def _deepspeed_is_for_deepspeed(self) -> "LearnerConfig":
        if problems := refused_deepspeed(self.deepspeed, zero_stage=self.zero_stage):
            raise ValueError("; ".join(problems))
        return self

    def checkpoints_activations(self, parameters: int) -> bool:
        """Whether a model of so many parameters has its activations recomputed."""
        if self.gradient_checkpointing == "auto":
            return parameters >= RECOMPUTED_FROM
        return self.gradient_checkpointing


class WeightsConfig(Section):
    """How new weights reach the running generators."""

    transport: Literal["auto", "nccl", "gloo"] = "auto"
    """`auto`: nccl where there are GPUs, else gloo."""
    publish_every: int = Field(1, ge=1)
    """Optimizer steps (training batches) per weight version."""
    bucket_mb: int = Field(64, ge=1, le=65536)
    """Size of the flat buffers that are sent, in MiB."""
    host: str = "127.0.0.1"
    """Address of the learner's rank 0 that generators can reach."""
    prepare_seconds: Seconds = 30
    """Deadline for every member to agree to a weight sync; who does not is left out."""
    transfer_seconds: Seconds = 120
    """Deadline for a transfer; over it the group is rebuilt and the version sent again. With a
    group that has served before it is 20 times what its transfers took, if that is less, and 10 s
    at least."""
    probe_every: int = Field(10, ge=1)
    """Besides a generator's first two, every n-th update is checked by comparing log-probabilities
    of a fixed sequence on both sides. Checksums are compared at every update."""
    probe_tolerance: float | None = Field(None, gt=0)
    """Largest mean absolute difference of those log-probabilities, in nats. By default it comes
    from the run: four times what the first verified weight sync showed, when both engines have
    loaded the same files (at least 1e-3 for float32, 0.02 for bfloat16; until then, and at most,
    1e-2 and 0.5)."""


class CheckpointPace(Section):
    """How long a checkpoint may take."""

    least_mb_per_second: float = Field(200, gt=0, allow_inf_nan=False)
    """What all ranks together write and read at least: a checkpoint may take so much longer than
    `learner.collective_seconds`, of 7B (126 GB) 11 minutes."""

    def longest_seconds(self, parameters: int) -> float:
        """Seconds that the files of a model of so many parameters may take."""
        return BYTES_PER_PARAMETER * parameters / (1e6 * self.least_mb_per_second)


class CheckpointConfig(CheckpointPace):
    """When the learner saves, and what is kept.

    A checkpoint is copied into main memory and written from there while training goes on; where
    there is no memory for the copy, training waits for the write. One is written at a time.
    """

    every: int = Field(50, ge=1)
    """Steps between checkpoints; one more is written at the end."""
    keep_last: int = Field(2, ge=1)
    """Older ones are deleted."""
    keep_best: bool = True
    """Keep one more, if it is older: the one whose weights reached the highest Pass@k of all that
    were evaluated, at the first of eval.pass_at and the first of eval.temperatures. Evaluate every
    so many steps (eval.every) that a checkpoint is written at (checkpoint.every)."""
