"""Programs as answers: a data set of problems, each with cases that a right program passes."""

from collections.abc import Sequence
from typing import Any

from asyncds.config.tasks import CodeTask as Settings
from asyncds.sandbox.sandbox import Sandbox
from asyncds.tasks import source
from asyncds.tasks.base import Row, Score
from asyncds.tasks.code.answer import fenced, last_program
from asyncds.tasks.code.cases import found, stdin_cases, unit_tests
from asyncds.tasks.code.judge import REASONS, Judge
from asyncds.tasks.dataset.prompts import Template
from asyncds.tasks.dataset.rows import DataTask
from asyncds.tasks.rewards.judge import answer_key
from asyncds.tasks.source import Source

_HINT = "name the columns of the cases in task.inputs and task.outputs, or in task.tests"


class CodeTask(DataTask):
    """Problems whose answers are programs in Python.

    options: fields of ``asyncds.config.tasks.CodeTask``. The parts of a reward are the share of
    cases that hold, and a 1 for the reason why it is not all of them.
    """

    name = "code"
    equivalences = ("written",)
    equivalence = "written"
    reward_parts = ("cases", *REASONS, "no_code")

    def __init__(self, *, tokenizer: str | None = None, **options: Any) -> None:
        self._settings = settings = Settings.model_validate({"kind": self.name, **options})
        super().__init__(settings, answer=settings.solution, tokenizer=tokenizer)
        self.sandbox = Sandbox(settings.sandbox)
        self._judge = Judge(self.sandbox, seconds=settings.seconds, to_the_end=settings.partial)

    def score(self, row: Row, completion: str) -> Score:
        """Raises SandboxError where the sandbox fails."""
        program = last_program(completion)
        if program is None:
            return Score(0.0, False, (), {"no_code": 1.0})
        judged = self._judge.judge(program, row.fields["columns"]["cases"])
        correct = judged.reason is None
        return Score(
            reward=judged.share if self._settings.partial else float(correct),
            correct=correct,
            answers=(answer_key(program),),
            parts={"cases": judged.share, **({judged.reason: 1.0} if judged.reason else {})},
        )

    def own_answers(self, row: Row) -> Sequence[str]:
        """The row's own program, in a block; of several the first."""
        own = row.fields["answer"]
        first = own[0] if isinstance(own, list) else own
        return [fenced(first)] if isinstance(first, str) else ()

    def _wanted(self, names: Sequence[str], origin: Source) -> set[str]:
        if self._settings.tests is not None:
            return Template(self._settings.tests, names, option="task.tests").columns
        wanted = [self._settings.inputs or "", self._settings.outputs or ""]
        source.check_columns(names, wanted, origin, _HINT)
        return {name if name in names else name.split(".")[0] for name in wanted}

    def _kept(self, columns: dict[str, Any], where: str) -> dict[str, Any]:
        """The row's cases."""
        settings = self._settings
        cases: Sequence[Any]
        if settings.tests is not None:
            template = Template(settings.tests, [*columns], option="task.tests")
            tests = (
                found(columns, settings.tests)
                if template.is_column
                else template.fill(columns, where)
            )
            cases = unit_tests(tests, where)
        else:
            inputs, outputs = (found(columns, n or "") for n in (settings.inputs, settings.outputs))
            cases = stdin_cases(inputs, outputs, where)
        return {"cases": cases[: settings.max_cases]}
