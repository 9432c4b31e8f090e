"""Facts of the task and the model that only those who join know."""

from dataclasses import dataclass, field

from asyncds.protocol.wire import GeneratorHello


@dataclass(kw_only=True)
class TaskFacts:
    """The task's sizes, as generators and the learner have told.

    rows: by split, empty before a generator joined. multiplicity: by equivalence, how many distinct
    correct answers the first problems of the evaluated split have. sets: (name, rows) of its
    evaluation sets, in the order of its rows. vocab_size: token ids are below it; None before a
    learner joined.
    """

    rows: dict[str, int] = field(default_factory=dict)
    multiplicity: dict[str, list[int]] = field(default_factory=dict)
    sets: list[tuple[str, int]] = field(default_factory=list)
    vocab_size: int | None = None

    def told_by_generator(self, hello: GeneratorHello) -> None:
        """Take over what a generator that has joined tells."""
        self.rows, self.multiplicity, self.sets = hello.rows, hello.multiplicity, hello.sets

    def told_by_learner(self, *, vocab_size: int) -> None:
        """Take over what a learner that has joined tells."""
        self.vocab_size = vocab_size
