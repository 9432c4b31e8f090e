"""REINFORCE."""

from typing import Literal

from asyncds.algo.losses.base import Loss, LossInputs, LossOutputs


class Reinforce(Loss):
    """Plain policy gradient; off-policy data is handled by the correction alone.

    ``−A log π_θ`` (Williams, 1992): no ratio, and no bound on the step.
    """

    kind: Literal["reinforce"] = "reinforce"

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        no_token = inputs.sequence < 0
        return LossOutputs(loss=-inputs.advantage * inputs.logprob, clipped=no_token)
