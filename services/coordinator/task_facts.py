"""Facts of the task and the model that only those who join know."""

from dataclasses import dataclass, field

from asyncds.protocol.wire import GeneratorHello
from asyncds.rollout.row_sets import set_of


@dataclass(kw_only=True)
class TaskFacts:
    """The task's sizes, as generators and the learner have told.

    rows: by split, empty before a generator joined. multiplicity: by equivalence, how many distinct
    correct answers the first problems of the evaluated split have. sets: (name, rows) of its
    evaluation sets, in the order of its rows; training_sets: of the parts that the rows to train on
    consist of. vocab_size: token ids are below it; None before a
    learner joined.
    """

    rows: dict[str, int] = field(default_factory=dict)
    multiplicity: dict[str, list[int]] = field(default_factory=dict)
    sets: list[tuple[str, int]] = field(default_factory=list)
    training_sets: list[tuple[str, int]] = field(default_factory=list)
    vocab_size: int | None = None

    def told_by_generator(self, hello: GeneratorHello) -> None:
        """Take over what a generator that has joined tells."""
        self.rows, self.multiplicity = hello.rows, hello.multiplicity
        self.sets, self.training_sets = hello.sets, hello.training_sets

    def training_set(self, row: int) -> str:
        """The name of the part that a row to train on is of; "" where it has no parts."""
        return set_of(self.training_sets, row)

    def told_by_learner(self, *, vocab_size: int) -> None:
        """Take over what a learner that has joined tells."""
        self.vocab_size = vocab_size
