"""The objective's part of the configuration: one choice per axis. docs/algorithms.md explains."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from asyncds.algo import advantages, corrections, losses
from asyncds.algo.advantages.base import Advantage
from asyncds.algo.advantages.ds_grpo import DsGrpo
from asyncds.algo.aggregation import Aggregation, TokenMean
from asyncds.algo.bundles import BUNDLES, with_bundle
from asyncds.algo.class_weights import ClassWeights
from asyncds.algo.corrections.base import Correction
from asyncds.algo.corrections.none import NoCorrection
from asyncds.algo.entropy import DifferentialEntropy
from asyncds.algo.kl import KlPenalty
from asyncds.algo.losses.base import Loss
from asyncds.algo.losses.clip import Clip
from asyncds.algo.overlong import Overlong, OverlongKeep, OverlongPenalty
from asyncds.algo.proximal import LogLinear, Proximal, Recomputed
from asyncds.choices.choice import Choice, kinds_in
from asyncds.choices.one_of import one_of
from asyncds.choices.open_kind import OpenKind
from asyncds.choices.schedule import Coefficient, acts, at

if TYPE_CHECKING:
    AnyAdvantage = Advantage
    AnyLoss = Loss
    AnyCorrection = Correction
    BundleName = str
else:
    BundleName = Literal[tuple(BUNDLES)]
    AnyAdvantage = one_of(kinds_in(advantages, Advantage))
    AnyLoss = one_of(kinds_in(losses, Loss))
    AnyCorrection = one_of(kinds_in(corrections, Correction))


BASES: dict[str, type[Choice]] = {"advantage": Advantage, "loss": Loss, "correction": Correction}
"""The class that a kind of one's own must be derived from."""


class AlgorithmConfig(Choice):
    """The objective that the learner optimises."""

    kind: BundleName | None = None
    """A named algorithm, whose choices are the defaults of the fields below, each of which can be
    set besides; default: none, and the defaults of the fields are their own."""
    advantage: AnyAdvantage = DsGrpo()
    """How rewards become advantages."""
    class_weights: ClassWeights = ClassWeights()
    """By what the advantages of each class are multiplied."""
    loss: AnyLoss = Clip()
    """How advantages become a loss."""
    correction: AnyCorrection = NoCorrection()
    """How data of an older policy is weighted, where the ratio is not taken against it."""
    proximal: Proximal = Recomputed()
    """What π_old is, for all that is set to proximal and for the correction."""
    kl: KlPenalty = KlPenalty()
    entropy_coef: Coefficient = 0.0
    """Weight of the mean entropy, added to what is maximised, a number or a schedule; negative: a
    penalty."""
    differential_entropy: DifferentialEntropy = DifferentialEntropy()
    """The same by class, beside entropy_coef."""
    aggregation: Aggregation = TokenMean()
    """Which mean over tokens and rollouts all terms of the loss are."""
    overlong: Overlong = OverlongKeep()
    """What becomes of completions that are cut off at sampling.max_tokens, or come near it."""
    updates_per_batch: int = Field(1, ge=1)
    """Optimizer updates a batch is split into."""

    @property
    def corrects(self) -> bool:
        """Whether tokens are weighted by π_old/μ."""
        return not isinstance(self.correction, NoCorrection)

    @property
    def needs_proximal(self) -> bool:
        """Whether π_old must be computed for the whole batch, without gradient, before training."""
        if isinstance(self.proximal, LogLinear):
            return False
        read = self.updates_per_batch > 1 and self._tokens_read_proximal
        return read or self.advantage.sequence_policy == "proximal"

    @property
    def needs_reference(self) -> bool:
        """Whether the base model's log-probs are ever needed."""
        return acts(self.kl.coef)

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy of the current policy is ever needed, with its gradient."""
        return acts(self.entropy_coef) or self.differential_entropy.acts

    @property
    def _tokens_read_proximal(self) -> bool:
        """Whether the loss of a token depends on π_old."""
        return self.corrects or "proximal" in (self.advantage.token_policy, self.loss.against)

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        return with_bundle(values)

    def at(self, step: int) -> "AlgorithmConfig":
        """The algorithm in force for training batch `step`, counted from 0.

        A number stands in the place of every schedule.
        """
        return at(self, step)

    def resolved(self) -> "AlgorithmConfig":
        """The same with kinds of the person's own imported and made.

        Raises KindError, and ValueError for a combination that makes no sense.
        """
        own = {
            name: choice.make(base)
            for name, base in BASES.items()
            if isinstance(choice := getattr(self, name), OpenKind)
        }
        made = self.model_copy(update=own)
        made._check()
        return made

    @model_validator(mode="after")
    def _meaningful(self) -> "AlgorithmConfig":
        if not any(isinstance(getattr(self, name), OpenKind) for name in BASES):
            self._check()  # otherwise once they are resolved
        return self

    def _check(self) -> None:
        if self.corrects and self.loss.against == "behaviour":
            way_out = (
                ", or algorithm.loss.ratio to proximal" if "ratio" in self.loss.model_fields else ""
            )
            raise ValueError(
                f"{self.loss.kind} takes its ratio against the behaviour policy, and correction "
                f"{self.correction.kind} would count the mismatch twice: set "
                f"algorithm.correction.kind to none{way_out}"
            )
        if isinstance(self.proximal, LogLinear):
            self._log_linear_is_read()
        if isinstance(self.overlong, OverlongPenalty) and not self.advantage.reads_reward:
            raise ValueError(
                f"{self.advantage.kind} reads the verifier's verdict and not the reward, so an "
                "overlong penalty would change nothing: set algorithm.overlong.kind to mask or "
                "keep, or choose an algorithm.advantage that reads rewards"
            )

    def _log_linear_is_read(self) -> None:
        if self.advantage.sequence_policy == "proximal":
            raise ValueError(
                "this advantage compares sequences before the current policy is known, which "
                "log_linear is made of: set algorithm.advantage.logprob_source to behaviour, or "
                "algorithm.proximal.kind to recomputed"
            )
        if not self._tokens_read_proximal:
            raise ValueError(
                "nothing reads a proximal policy here, so log_linear would change nothing: set "
                "algorithm.proximal.kind to recomputed, or algorithm.loss.ratio to proximal"
            )
