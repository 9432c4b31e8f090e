"""Several rewards as one judgement: a weighted sum, and the verdict of one of them."""

import hashlib
from collections.abc import Sequence

from asyncds.config.tasks import RewardConfig
from asyncds.tasks.base import Score
from asyncds.tasks.rewards.reward import Asked, Reward

LONGEST_KEY = 200
"""Characters of an answer's canonical form."""


class Judge:
    """Rewards, and which of them says whether a completion is correct.

    correct_by: its name; None: the first. correct_at: the value from which on it is, where a reward
    says a number only. Raises ValueError (KindError) with a sentence.
    """

    def __init__(
        self, rewards: Sequence[RewardConfig], *, correct_by: str | None, correct_at: float
    ) -> None:
        self.rewards = [Reward(**one.model_dump()) for one in rewards]
        self.names = tuple(reward.name for reward in self.rewards)
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"two rewards are called {name!r}: give each a name of its own")
        if correct_by not in (None, *self.names):
            known = ", ".join(self.names)
            raise ValueError(f"task.correct_by {correct_by!r} is none of the rewards {known}")
        self._correct_by = self.names[0] if correct_by is None else correct_by
        self._correct_at = correct_at

    def score(self, asked: Asked) -> Score:
        """Raises whatever a reward raises."""
        verdicts = {reward.name: reward(asked) for reward in self.rewards}
        chief = verdicts[self._correct_by]
        return Score(
            reward=sum(reward.weight * verdicts[reward.name].value for reward in self.rewards),
            correct=chief.value >= self._correct_at if chief.correct is None else chief.correct,
            answers=(answer_key(asked.completion if chief.answer is None else chief.answer),),
            parts={name: verdict.value for name, verdict in verdicts.items()},
        )


def answer_key(answer: str) -> str:
    """A text that is equal for answers written the same, but for spaces: of a long one a digest."""
    key = " ".join(answer.split())
    return key if len(key) <= LONGEST_KEY else hashlib.sha256(key.encode()).hexdigest()
