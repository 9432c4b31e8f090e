"""The configuration of a run: every field, its default and what it means.

A run is one YAML file of this shape; `asyncds config schema` prints it as JSON Schema, and
`asyncds config show FILE` prints a file with every default written out. Unknown keys are refused.
The sections are in the modules beside this one: ``sampling``, ``engines``, ``operation``, ``tasks``
and ``trackers``, and the algorithm's in ``asyncds.algo.algorithm``.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from asyncds.algo.advantages.base import Advantage, Sequences
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.overlong import OverlongMask, OverlongPenalty
from asyncds.choices.open_kind import OpenKind
from asyncds.config.engines import (
    CheckpointConfig,
    GeneratorConfig,
    LearnerConfig,
    ScoringConfig,
    WeightsConfig,
)
from asyncds.config.lora import LoraConfig
from asyncds.config.operation import CoordinatorConfig, SupervisionConfig, TelemetryConfig
from asyncds.config.ray import RayConfig
from asyncds.config.sampling import EpisodesConfig, EvalConfig, RolloutConfig, SamplingConfig
from asyncds.config.section import Section
from asyncds.config.tasks import (
    AnyTask,
    CountdownTask,
    each_task,
    without_training_data,
    without_validation,
)

GROUP_TOKENS = 1 << 24
"""Of a training group: some 128 MB, half of the largest message. Evaluations come in parts."""


class RunConfig(Section):
    """A run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """The run's directory is `<runs_dir>/<name>`."""
    label: str | None = Field(None, min_length=1)
    """What the run is called in comparisons; runs of equal label are one group. Default: runs that
    differ in base model and seed alone are, and it is called after its settings."""
    runs_dir: str = Field("runs", min_length=1)
    """Where run directories are made."""
    model: str = Field(min_length=1)
    """The base model: a Hugging Face directory, or a hub id."""
    tokenizer: str | None = Field(None, min_length=1)
    """Its tokenizer, if not in the model's directory."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations in the learner and the generators."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything that is random."""
    steps: int = Field(100, ge=0)
    """Training batches (optimizer steps, unless algorithm.updates_per_batch is above 1). 0: nothing
    is trained, there is no learner, and the model is evaluated as it is (`asyncds eval`)."""
    task: AnyTask = CountdownTask()
    """What is trained on."""
    sampling: SamplingConfig = SamplingConfig()
    episodes: EpisodesConfig = EpisodesConfig()
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
    ray: RayConfig = RayConfig()

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; if not, there is no learner."""
        return self.steps > 0

    @property
    def sent_adapter(self) -> LoraConfig | None:
        """The adapter that engines get instead of whole weights, if any."""
        lora = self.learner.lora if self.trains else None
        return lora if lora is not None and lora.publish == "adapter" else None

    @property
    def sends_whole_weights(self) -> bool:
        """Whether engines get all of their weights from the learner."""
        return self.trains and self.sent_adapter is None

    @property
    def learner_ranks(self) -> int:
        """Processes that train: learner.ranks, or none."""
        return self.learner.ranks if self.trains else 0

    def resolved(self) -> "RunConfig":
        """The same with the algorithm's kinds of the person's own imported and made.

        Raises ValueError (KindError) if that can't be done, or they make no sense together.
        """
        made = self.model_copy(update={"algorithm": self.algorithm.resolved()})
        made._check_advantage()
        return made

    @model_validator(mode="after")
    def _evaluated_split_is_there(self) -> "RunConfig":
        if self.eval.split == "validation" and without_validation(self.task):
            raise ValueError(
                "eval.split is validation, and task.n_validation 0 holds no problems out for it: "
                "raise it"
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_train_on(self) -> "RunConfig":
        if self.trains and (problem := without_training_data(self.task)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _programs_fit_into_a_judgement(self) -> "RunConfig":
        limits = self.scoring
        for where, task in each_task(self.task).items():
            if (sandbox := getattr(task, "sandbox", None)) is None:
                continue
            seconds = getattr(task, "seconds", sandbox.seconds)
            if seconds + 1 > limits.timeout_seconds:
                raise ValueError(
                    f"programs of {where} may take {seconds:g} s, and scoring.timeout_seconds "
                    f"{limits.timeout_seconds:g} would end their judge: it has to be a second more"
                )
            if sandbox.memory_mb > limits.memory_mb:
                raise ValueError(
                    f"{where}.sandbox.memory_mb {sandbox.memory_mb} is more than the "
                    f"scoring.memory_mb {limits.memory_mb} that a scorer and what it starts may "
                    "have: raise that"
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
    def _one_generator_that_hangs_is_given_up_before_the_ranks_are(self) -> "RunConfig":
        """Check that a weight sync ends before a collective of the learner's ranks does.

        While a weight sync waits for a generator, rank 0 may wait for it and the others for rank 0,
        in a collective.
        """
        w = self.weights
        longest = w.prepare_seconds + w.transfer_seconds
        if self.learner.ranks > 1 and longest >= self.learner.collective_seconds:
            raise ValueError(
                f"a weight sync may take {longest:g} s (weights.prepare_seconds + "
                "transfer_seconds), and a generator that hangs in one would end the learner after "
                f"learner.collective_seconds {self.learner.collective_seconds:g}: raise that, or "
                "lower weights.transfer_seconds"
            )
        return self

    @model_validator(mode="after")
    def _a_group_fits_into_a_message(self) -> "RunConfig":
        if (tokens := self.rollout.group_size * self.sampling.max_tokens) > GROUP_TOKENS:
            raise ValueError(
                f"a group may have {tokens:,} tokens (rollout.group_size × sampling.max_tokens), "
                f"and a message holds {GROUP_TOKENS:,} at most: lower one of them"
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
        if self.trains and self.dtype == "bfloat16" and self.learner.zero_stage == 0:
            raise ValueError(
                "learner.zero_stage 0 keeps no float32 copy of bfloat16 weights, and small updates "
                "would be rounded away: choose zero_stage 1, or dtype float32"
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
        if self.trains and not own:
            self._groups_carry_signal()

    def _groups_carry_signal(self) -> None:
        """Some do; and some do not, if dynamic sampling is to drop these."""
        n = self.rollout.group_size
        # γ is zero throughout, or, by a schedule, where that begins or ends.
        ends = [self.algorithm.at(step).advantage for step in (0, self.steps - 1)]
        advantage = ends[0]
        teach = [[_carries_signal(one, [verdict] * n) for verdict in (True, False)] for one in ends]
        if n == 1 and not any(map(any, teach)):
            raise ValueError(
                f"{advantage.kind} compares the rollouts of a group, and nothing can be learnt "
                "from a group of one: raise rollout.group_size"
            )
        if not self.rollout.dynamic_sampling.enabled:
            return
        if all(map(all, teach)) and not isinstance(self.algorithm.overlong, OverlongMask):
            raise ValueError(
                f"{advantage.kind} with these settings gives every group an advantage, so dynamic "
                "sampling would never drop one: set rollout.dynamic_sampling.enabled to false, or "
                "one of algorithm.advantage.gamma_p and gamma_n to 0"
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
