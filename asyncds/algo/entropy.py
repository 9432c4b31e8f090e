"""Entropy control by class."""

import numpy as np
import numpy.typing as npt

from asyncds.algo.aggregation import class_mean_weights
from asyncds.choices.choice import Choice
from asyncds.choices.schedule import Strength, acts

Float = npt.NDArray[np.float64]


class DifferentialEntropy(Choice):
    """Entropy bonus on correct rollouts and penalty on incorrect ones.

    ``+ a_p E[H | correct] − a_n E[H | incorrect]`` is maximised (arXiv 2511.19942, section 4.8.2),
    the control experiment to differential smoothing. The expectations are means over the tokens of
    the correct, and of the incorrect rollouts of an update, in the proportions of the aggregation;
    a class that is not there adds nothing.
    """

    correct: Strength = 0.0
    """Weight of the mean entropy over correct rollouts, which is raised: a number, or a
    schedule."""
    incorrect: Strength = 0.0
    """Weight of the mean entropy over incorrect rollouts, which is lowered: the same."""

    @property
    def acts(self) -> bool:
        """Whether it ever adds anything."""
        return acts(self.correct) or acts(self.incorrect)

    def __call__(
        self,
        weight: Float,
        correct: npt.NDArray[np.bool_],
        length: npt.NDArray[np.int64],
        update: npt.NDArray[np.int64],
    ) -> Float:
        """The weight of the entropy of each of a sequence's tokens in the objective: [N] -> [N].

        weight: of the aggregation. update: which of the batch's updates, 0..m-1.
        """
        by_class = np.where(correct, self.correct, -self.incorrect)
        return by_class * class_mean_weights(weight, correct, length, update)
