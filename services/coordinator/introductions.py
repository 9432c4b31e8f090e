"""Introductions: the conditions on which a process is let into a run."""

from asyncds.config.schema import RunConfig
from asyncds.config.tasks import task_weights
from asyncds.fleet.membership import Fleet
from asyncds.protocol.wire import PROTOCOL, GeneratorHello, LearnerHello


class Introductions:
    """Compares what processes say of themselves with the run, and with those let in before."""

    def __init__(self, *, config: RunConfig, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._tokenizer = ""
        self._data = ""

    def generator_problem(self, hello: GeneratorHello) -> str:
        """Why a generator can't take part, or ""."""
        return (
            self._problem(hello.protocol, hello.tokenizer)
            or self._data_problem(hello)
            or self._name_problem(hello)
        )

    def learner_problem(self, hello: LearnerHello, earlier: list[str]) -> str:
        """Why a learner's rank can't take part, or "".

        earlier: incarnations of the learner so far.
        """
        if not self._config.trains:
            return "this run trains nothing (steps is 0) and has no learner"
        if hello.incarnation in earlier[:-1]:
            return "another learner took over this run; restart it to go on from a checkpoint"
        if problem := self._problem(hello.protocol, hello.tokenizer):
            return problem
        if hello.rank >= hello.ranks:
            return f"it says it is rank {hello.rank} of {hello.ranks}"
        return ""

    def admit(self, hello: GeneratorHello | LearnerHello) -> None:
        """Let the sender take part: those that come later must fit to it."""
        self._tokenizer = hello.tokenizer
        if isinstance(hello, GeneratorHello):
            self._data = hello.data

    def _problem(self, protocol: int, tokenizer: str) -> str:
        if protocol != PROTOCOL:
            return (
                f"it speaks protocol {protocol}, this coordinator {PROTOCOL}: install the same "
                "version of asyncds everywhere"
            )
        if self._tokenizer and tokenizer != self._tokenizer:
            return (
                "its tokenizer differs from the one of those that joined before: give learner and "
                "generators the same model and tokenizer"
            )
        return ""

    def _data_problem(self, hello: GeneratorHello) -> str:
        if self._data and hello.data != self._data:
            return (
                "its task data differs from the other generators': give every generator the same "
                "task configuration and data set"
            )
        trained = ["train"] if self._config.trains else []
        for split in (*trained, self._config.eval.split):
            if hello.rows.get(split, 0) < 1:
                return f"its task has no rows in the split {split!r}: give the task some"
        consists_of = [name for name, _ in hello.training_sets]
        if (weights := task_weights(self._config.task)) and consists_of != [*weights]:
            return (
                f"its task consists of {', '.join(consists_of)}, and task.tasks names "
                f"{', '.join(weights)}: give every process the same configuration"
            )
        in_sets = sum(n for _, n in hello.sets)
        if hello.sets and in_sets != hello.rows[self._config.eval.split]:
            return (
                f"the evaluation sets of its task have {in_sets} rows, and the split "
                f"{self._config.eval.split!r} has {hello.rows[self._config.eval.split]}: have "
                "sets() name all of them"
            )
        return ""

    def _name_problem(self, hello: GeneratorHello) -> str:
        dead = self._fleet.buried(hello.incarnation)
        if dead and self._fleet.taken(hello.name, hello.incarnation):
            return "another of its name took its place: give every generator a name of its own"
        return ""
