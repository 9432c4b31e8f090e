"""The objective's part of the configuration. docs/algorithms.md has the formulas."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Choice(BaseModel):
    """One choice among several: fields of another choice are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Grpo(Choice):
    """Group-relative advantage: reward minus the group's mean, over its standard deviation."""

    kind: Literal["grpo"] = "grpo"
    scale: Literal["std", "none"] = "std"
    """Divide by the group's standard deviation, or not (Dr. GRPO)."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """What is subtracted: the group's mean, or the mean of the others."""


class DsGrpo(Choice):
    """GRPO with differential smoothing: −γ_p·log π added to the advantage of correct rollouts,
    +γ_n·log π to that of incorrect ones. γ_n 0 is DS-Positive, γ_p 0 is DS-Negative."""

    kind: Literal["ds_grpo"] = "ds_grpo"
    scale: Literal["std", "none"] = "std"
    """As in grpo. The form reward_mean needs none."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """As in grpo."""
    form: Literal["token", "seq_mean", "seq_sum", "reward_mean"] = "token"
    """Whose log-probability: each token's own, the sequence's mean or sum, or the mean added to
    the reward before the group's mean is subtracted."""
    gamma_p: float = Field(0.02, ge=0)
    """Strength on correct rollouts."""
    gamma_n: float = Field(0.002, ge=0)
    """Strength on incorrect rollouts."""
    logprob_source: Literal["proximal", "behaviour"] = "proximal"
    """The learner's own log-probability, or the one recorded by the generator."""

    @model_validator(mode="after")
    def _reward_mean_is_not_divided(self) -> "DsGrpo":
        if self.form == "reward_mean" and self.scale == "std":
            raise ValueError(
                "form reward_mean shifts the rewards, and dividing by their standard deviation "
                "would undo gamma: set scale to none"
            )
        return self


class Unlikeliness(Choice):
    """GRPO on rewards that are worth less the likelier the rollout is within its group."""

    kind: Literal["unlikeliness"] = "unlikeliness"
    scale: Literal["std", "none"] = "std"
    """As in grpo."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """As in grpo."""
    strength: float = Field(0.25, ge=0, le=1)
    """What the likeliest rollout of a large group loses of its reward, as a fraction."""
    logprob_source: Literal["proximal", "behaviour"] = "proximal"
    """Who ranks them: the learner, at the price of a forward pass more, or the generator."""


class Pkpo(Choice):
    """Pass@k policy optimisation: rollouts count by how they help the best of k."""

    kind: Literal["pkpo"] = "pkpo"
    k: int = Field(4, ge=1)
    """Samples of which one must be correct; at most the rollouts of a group."""
    baseline: Literal["none", "leave_one_out"] = "leave_one_out"
    """Nothing subtracted, or what the rest of the k achieves (less variance)."""


class GrPkpo(Choice):
    """Pass@k training: the advantage of GRPO averaged over all sets of k rollouts."""

    kind: Literal["gr_pkpo"] = "gr_pkpo"
    k: int = Field(4, ge=1)
    """As in pkpo."""


class BestOfGroup(Choice):
    """Only the best rollout of a group learns, by its lead over the second."""

    kind: Literal["best_of_group"] = "best_of_group"
    scale: Literal["std", "none"] = "std"
    """As in grpo."""


Advantage = Annotated[
    Grpo | DsGrpo | Unlikeliness | Pkpo | GrPkpo | BestOfGroup, Field(discriminator="kind")
]


class ClipLoss(Choice):
    """PPO's clipped loss, with separate bounds (clip-higher) and dual clip."""

    kind: Literal["clip"] = "clip"
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """What the current policy is compared with: the one that sampled (a correction and a trust
    region at once), or the learner's at the start of the batch."""
    low: float = Field(0.2, ge=0, lt=1)
    """Ratios below 1 − low earn nothing more."""
    high: float = Field(0.28, ge=0)
    """Ratios above 1 + high earn nothing more."""
    dual: float | None = Field(3.0, gt=1)
    """Bound on the ratio where the advantage is negative; null: none."""


class ReinforceLoss(Choice):
    """Plain policy gradient; off-policy data is handled by the correction alone."""

    kind: Literal["reinforce"] = "reinforce"


class CispoLoss(Choice):
    """Policy gradient weighted by the truncated ratio: no token loses its gradient."""

    kind: Literal["cispo"] = "cispo"
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """As in clip."""
    cap: float = Field(5.0, ge=1)
    """The largest ratio that counts."""


class GspoLoss(Choice):
    """The clipped loss on the ratio of whole rollouts, the geometric mean over their tokens."""

    kind: Literal["gspo"] = "gspo"
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """As in clip."""
    low: float = Field(3e-4, ge=0, lt=1)
    """Ratios below 1 − low earn nothing more."""
    high: float = Field(4e-4, ge=0)
    """Ratios above 1 + high earn nothing more."""


class DppoLoss(Choice):
    """A trust region in probabilities around the policy that sampled."""

    kind: Literal["dppo"] = "dppo"
    bound: float = Field(0.2, gt=0, le=1)
    """How far a token's probability may move, in the direction its advantage asks for."""
    cap: float = Field(3.0, ge=1)
    """The largest ratio that counts."""
    penalty: float = Field(1e-3, ge=0)
    """Weight of the squared log-ratio."""


Loss = Annotated[
    ClipLoss | CispoLoss | GspoLoss | DppoLoss | ReinforceLoss, Field(discriminator="kind")
]


class NoCorrection(Choice):
    """No importance weight."""

    kind: Literal["none"] = "none"


class Tis(Choice):
    """Truncated importance sampling: tokens are weighted by min(π_old/μ, cap)."""

    kind: Literal["tis"] = "tis"
    cap: float = Field(2.0, ge=1)
    """The largest weight."""


class IcePop(Choice):
    """Tokens are weighted by π_old/μ, and left out where it lies outside low … high."""

    kind: Literal["icepop"] = "icepop"
    low: float = Field(0.5, ge=0, le=1)
    """The smallest weight that is kept."""
    high: float = Field(5.0, ge=1)
    """The largest weight that is kept."""


class SequenceTis(Choice):
    """All tokens of a rollout are weighted by min(∏ π_old/μ, cap)."""

    kind: Literal["sequence"] = "sequence"
    cap: float = Field(5.0, ge=1)
    """The largest weight."""


class GeometricMask(Choice):
    """Rollouts are left out whose geometric mean of π_old/μ over tokens lies outside low … high."""

    kind: Literal["geometric_mask"] = "geometric_mask"
    low: float = Field(0.99, ge=0, le=1)
    """The smallest mean that is kept."""
    high: float = Field(1.01, ge=1)
    """The largest mean that is kept."""


class SequenceMask(Choice):
    """Rollouts are left out whose product of π_old/μ over tokens lies outside low … high."""

    kind: Literal["sequence_mask"] = "sequence_mask"
    low: float = Field(0.5, ge=0, le=1)
    """The smallest product that is kept."""
    high: float = Field(2.0, ge=1)
    """The largest product that is kept."""


Correction = Annotated[
    NoCorrection | Tis | IcePop | SequenceTis | GeometricMask | SequenceMask,
    Field(discriminator="kind"),
]


class Recomputed(Choice):
    """π_old is the learner at the start of the batch: a forward pass more where a batch is split
    into several updates."""

    kind: Literal["recomputed"] = "recomputed"


class LogLinear(Choice):
    """π_old lies between the behaviour policy and the current one, at no cost."""

    kind: Literal["log_linear"] = "log_linear"
    current: float = Field(0.5, gt=0, lt=1)
    """Share of the current policy: log π_old = (1 − current)·log μ + current·log π_θ."""


Proximal = Annotated[Recomputed | LogLinear, Field(discriminator="kind")]


class KlConfig(Choice):
    """Penalty for leaving the base model."""

    coef: float = Field(0.0, ge=0)
    """Its weight in the loss; 0: no penalty, and no reference model is loaded."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the divergence is estimated from sampled tokens."""


class DifferentialEntropy(Choice):
    """Entropy bonus on correct rollouts and penalty on incorrect ones."""

    correct: float = Field(0.0, ge=0)
    """Weight of the mean entropy over correct rollouts, which is raised."""
    incorrect: float = Field(0.0, ge=0)
    """Weight of the mean entropy over incorrect rollouts, which is lowered."""


class TokenMean(Choice):
    """The mean over all tokens: a long rollout weighs more than a short one."""

    kind: Literal["token_mean"] = "token_mean"


class SequenceMean(Choice):
    """The mean over rollouts of their mean over tokens: every rollout weighs the same."""

    kind: Literal["sequence_mean"] = "sequence_mean"


class ConstantLength(Choice):
    """The mean over rollouts of their sum over tokens, divided by a constant (Dr. GRPO)."""

    kind: Literal["constant_length"] = "constant_length"
    tokens: int = Field(ge=1)
    """The constant, such as the largest number of tokens of a response."""


Aggregation = Annotated[TokenMean | SequenceMean | ConstantLength, Field(discriminator="kind")]


class OverlongKeep(Choice):
    """Completions that were cut off are rollouts like any other."""

    kind: Literal["keep"] = "keep"


class OverlongMask(Choice):
    """Completions that were cut off give no policy loss. They count in everything else: their
    group's statistics, the number of tokens the loss is divided by, KL and entropy terms."""

    kind: Literal["mask"] = "mask"


class OverlongPenalty(Choice):
    """The reward falls linearly over the last tokens before sampling.max_tokens (DAPO)."""

    kind: Literal["penalty"] = "penalty"
    buffer_tokens: int = Field(ge=1)
    """How many tokens before sampling.max_tokens it begins to fall; at most sampling.max_tokens."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """What is lost at sampling.max_tokens."""


Overlong = Annotated[OverlongKeep | OverlongMask | OverlongPenalty, Field(discriminator="kind")]


class AlgorithmConfig(Choice):
    """What the learner optimises."""

    advantage: Advantage = DsGrpo()
    """How rewards become advantages."""
    loss: Loss = ClipLoss()
    """How advantages become a loss."""
    correction: Correction = NoCorrection()
    """How data of an older policy is weighted, where the ratio is not taken against it."""
    proximal: Proximal = Recomputed()
    """What π_old is, for all that is set to proximal and for the correction."""
    kl: KlConfig = KlConfig()
    entropy_coef: float = 0.0
    """Weight of the mean entropy, added to what is maximised; negative: a penalty."""
    differential_entropy: DifferentialEntropy = DifferentialEntropy()
    """The same by class, beside entropy_coef."""
    aggregation: Aggregation = TokenMean()
    """Which mean over tokens and rollouts all terms of the loss are."""
    overlong: Overlong = OverlongKeep()
    """What becomes of completions that are cut off at sampling.max_tokens, or come near it."""
    updates_per_batch: int = Field(1, ge=1)
    """Optimizer updates a batch is split into."""

    @model_validator(mode="after")
    def _meaningful(self) -> "AlgorithmConfig":
        corrected = not isinstance(self.correction, NoCorrection)
        if corrected and isinstance(self.loss, DppoLoss):
            raise ValueError(
                f"dppo takes its ratio against the behaviour policy, and correction "
                f"{self.correction.kind} would count the mismatch twice: set "
                "algorithm.correction.kind to none"
            )
        if corrected and self._ratio == "behaviour":
            raise ValueError(
                f"correction {self.correction.kind} together with a ratio against the behaviour "
                "policy would count the mismatch twice: set algorithm.correction.kind to none, or "
                "algorithm.loss.ratio to proximal"
            )
        if isinstance(self.proximal, LogLinear):
            self._log_linear_is_read()
        if isinstance(self.overlong, OverlongPenalty) and isinstance(self.advantage, Pkpo | GrPkpo):
            raise ValueError(
                f"{self.advantage.kind} reads the verifier's verdict and not the reward, so an "
                "overlong penalty would change nothing: set algorithm.overlong.kind to mask or "
                "keep, or choose an algorithm.advantage that reads rewards"
            )
        return self

    @property
    def _ratio(self) -> Literal["behaviour", "proximal"] | None:
        """The policy that the loss takes its ratio against."""
        match self.loss:
            case ReinforceLoss():
                return None
            case DppoLoss():
                return "behaviour"
            case _:
                return self.loss.ratio

    def _log_linear_is_read(self) -> None:
        source = getattr(self.advantage, "logprob_source", "behaviour")
        by_sequence = isinstance(self.advantage, Unlikeliness) or (
            isinstance(self.advantage, DsGrpo) and self.advantage.form == "reward_mean"
        )
        if source == "proximal" and by_sequence:
            raise ValueError(
                "this advantage compares sequences before the current policy is known, which "
                "log_linear is made of: set algorithm.advantage.logprob_source to behaviour, or "
                "algorithm.proximal.kind to recomputed"
            )
        if "proximal" not in (source, self._ratio) and isinstance(self.correction, NoCorrection):
            raise ValueError(
                "nothing reads a proximal policy here, so log_linear would change nothing: set "
                "algorithm.proximal.kind to recomputed, or algorithm.loss.ratio to proximal"
            )
