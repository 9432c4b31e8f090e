"""The configuration of what is sampled: rollouts to train on, and evaluations."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from asyncds.config.section import Fraction, Seconds, Section

Temperature = Annotated[float, Field(ge=0.01, le=100)]
"""vLLM takes less than 0.01 for 0.01, and the learner would not; from 100 on tokens are chance."""


class SamplingConfig(Section):
    """How training rollouts are sampled."""

    temperature: Temperature = 1.0
    """Logits are divided by this; the learner divides its own by the same."""
    max_tokens: int = Field(8, ge=1)
    """Longest completion, in tokens; of an episode all that follows its prompt, with what its
    environment says."""
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


class CurriculumConfig(Section):
    """Prompts that the policy always solves, or never does, come less often.

    How difficult a prompt is, its groups say (docs/tasks.md, "Curricula"). What is too easy or too
    hard is measured and shown whether or not this is enabled.
    """

    enabled: bool = False
    """Whether such prompts are passed over."""
    visits: int = Field(2, ge=1, le=100)
    """A prompt is judged by so many of its last groups; until it had them it always comes."""
    solved: float = Field(1.0, gt=0, le=1)
    """It is solved from this share of right completions on."""
    hopeless: float = Field(0.0, ge=0, lt=1)
    """It is hopeless up to this share."""
    least: Fraction = 0.1
    """The chance that one which is solved or hopeless comes in an epoch all the same: what the
    policy forgets, or becomes able to do, is noticed so."""

    @model_validator(mode="after")
    def _something_lies_between(self) -> "CurriculumConfig":
        if self.hopeless >= self.solved:
            raise ValueError(
                f"hopeless {self.hopeless:g} is not below solved {self.solved:g}, so that no "
                "prompt lies between: lower it"
            )
        return self


class RolloutConfig(Section):
    """Batches, and how stale a rollout may be. docs/staleness.md explains the rule."""

    groups_per_step: int = Field(32, ge=1)
    """Prompts in one training batch."""
    group_size: int = Field(8, ge=1, le=65536)
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
    curriculum: CurriculumConfig = CurriculumConfig()

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


Limit = Literal["tokens", "turns", "seconds"]
"""A limit that ends a completion: `sampling.max_tokens`, or one of `episodes`."""


class EpisodesConfig(Section):
    """Limits of an episode, where the task is an environment (docs/environments.md)."""

    max_turns: int = Field(8, ge=1)
    """Times that the policy may speak."""
    turn_tokens: int | None = Field(None, ge=1)
    """Longest turn, in tokens; default: what sampling.max_tokens leaves."""
    seconds: Seconds = 60
    """No turn begins later than this after the episode's beginning. Time in which its engine was
    paused for new weights does not count."""
    rewritten_history: Literal["refuse", "keep"] = "refuse"
    """What becomes of a chat template that shows a model its earlier turns otherwise than it wrote
    them, without their thinking say: the run is refused, or transcripts keep what was sampled."""


class EvalConfig(Section):
    """Held-out evaluation on pinned weights: of the base model, while training, of the result."""

    every: int = Field(0, ge=0)
    """Steps between evaluations while training; 0: only the base model and the result."""
    n_problems: int | None = Field(None, ge=1)
    """How many held-out problems, of several evaluation sets by their sizes; default: all."""
    n_samples: int = Field(64, ge=1)
    """Completions per problem for the base model and the result."""
    interim_samples: int = Field(16, ge=1)
    """Completions per problem for evaluations while training."""
    split: Literal["eval", "validation"] = "eval"
    """Which held-out problems. Tune on `validation` and report on `eval`."""
    temperatures: tuple[Temperature, ...] = Field((1.0,), min_length=1)
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
