"""A data set and a reward as a task."""

from collections.abc import Sequence
from typing import Any

from asyncds.config.tasks import DatasetTask as Settings
from asyncds.config.tasks import RewardedTask
from asyncds.tasks import data
from asyncds.tasks.base import Row, Score
from asyncds.tasks.dataset.rows import DataTask
from asyncds.tasks.rewards.judge import Judge
from asyncds.tasks.rewards.reward import Asked
from asyncds.tasks.source import Source


class DatasetTask(DataTask):
    """Rows of data sets, judged by rewards.

    options: fields of ``asyncds.config.tasks.DatasetTask``. tokenizer: see ``DataTask``.

    Answers are the same if the reward that says what is correct says so, or else if they are
    written the same.
    """

    name = "dataset"
    equivalences = ("written",)
    equivalence = "written"

    options: type[RewardedTask] = Settings

    def __init__(self, *, tokenizer: str | None = None, **options: Any) -> None:
        settings = self.options.model_validate({"kind": self.name, **options})
        super().__init__(settings, answer=settings.answer, tokenizer=tokenizer)
        rewards = settings.rewards if settings.reward is None else [settings.reward]
        self._judge = Judge(rewards, correct_by=settings.correct_by, correct_at=settings.correct_at)
        self.reward_parts = self._judge.names

    def _wanted(self, names: Sequence[str], origin: Source) -> set[str]:
        wanted: set[str] = set()
        for reward in self._judge.rewards:
            wanted |= reward.columns(names, has_answer=self._answer is not None)
        return wanted

    def score(self, row: Row, completion: str) -> Score:
        """Raises whatever a reward raises: it is called under the limits of a scorer alone."""
        return self._judge.score(
            Asked(
                completion=completion,
                prompt=self.prompt(row),
                answer=row.fields["answer"],
                columns=row.fields["columns"],
            )
        )

    def own_answers(self, row: Row) -> Sequence[str]:
        """The answer in the forms that are usual, of which a reward wants one."""
        try:
            answer = data.text(row.fields["answer"])
        except ValueError:
            return ()
        forms = ("{}", "<answer>{}</answer>", "\\boxed{{{}}}", "#### {}")
        return [form.format(answer) for form in forms] if answer else ()
