"""Factors of advantages by class."""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from asyncds.choices.choice import Choice


class ClassWeights(Choice):
    """Factors of the advantages of correct and of incorrect rollouts.

    W-REINFORCE and NSR (arXiv 2506.01347) are a small or no weight on correct ones. It is the
    control that tells smoothing from pushing correct rollouts up. The terms of differential
    smoothing are added afterwards.
    """

    correct: float = Field(1.0, ge=0)
    """Factor of correct rollouts; 0: only incorrect ones teach."""
    incorrect: float = Field(1.0, ge=0)
    """Factor of incorrect rollouts."""

    def __call__(self, correct: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Verdicts [N] -> factors [N]."""
        return np.where(correct, self.correct, self.incorrect)
