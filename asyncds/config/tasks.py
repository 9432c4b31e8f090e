"""The task's part of the configuration. docs/tasks.md says what each is."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from asyncds.choices.one_of import one_of
from asyncds.choices.open_kind import OpenKind
from asyncds.config.section import Section


class ChatConfig(Section):
    """How chats are put into words, where a task makes chats."""

    system: str | None = None
    """Text of the system turn; default: what the template, or the data set, has."""
    prefix: str = ""
    """What the assistant's turn begins with, in front of what is sampled."""
    template: str | None = None
    """A Jinja chat template, or a file with one; default: the tokenizer's own. A base model without
    one needs it."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the template, such as `enable_thinking: false`."""


class _PlainOrChat(Section):
    """What tasks share that ask in either of two styles."""

    prompt_style: Literal["plain", "chat"] = "plain"
    chat: ChatConfig = ChatConfig()
    """Details of `prompt_style: chat`."""

    @model_validator(mode="after")
    def _chat_has_effect(self) -> "_PlainOrChat":
        if self.prompt_style == "plain" and self.chat != ChatConfig():
            raise ValueError("task.chat has no effect with prompt_style plain: set it to chat")
        return self


class CountdownTask(_PlainOrChat):
    """Reach a target number from given numbers, each used exactly once, with + - * and ( )."""

    kind: Literal["countdown"] = "countdown"
    operands: int = Field(3, ge=2, le=6)
    """How many numbers a problem gives."""
    max_number: int = Field(10, ge=2)
    """Numbers are drawn from 1 to this."""
    max_target: int = Field(99, ge=2)
    """Targets lie between 1 and this."""
    natural: bool = True
    """Whether every intermediate result is a whole number, 0 or more."""
    n_train: int | None = Field(None, ge=1)
    """Problems to train on; default: all of a small family, 20,000 of a large one."""
    n_eval: int = Field(128, ge=1)
    """Problems held out for evaluation; never trained on."""
    n_validation: int = Field(0, ge=0)
    """Problems held out besides, to tune on (`eval.split`); never trained on."""
    seed: int = 0
    """Decides which problems are held out."""
    prompt_style: Literal["plain", "chat"] = "plain"
    """`plain`: `2 5 10 = 30 :`, the answer is the whole completion. `chat`: a user turn that asks
    for `<think>` and `<answer>`; a wrong but well-formed answer earns 0.1."""
    equivalence: Literal["written", "commutative", "associative"] = "written"
    """Which correct answers count as the same one: those written the same, or the same up to the
    order of operands, or up to their grouping too."""
    dataset: str | None = None
    """A data set with the columns `nums` and `target` instead of generated problems: a hub id, a
    directory, or a file."""
    dataset_operands: int | None = Field(None, ge=2, le=6)
    """Only the problems of the data set with so many numbers; default: all."""


class KnightsKnavesTask(_PlainOrChat):
    """Tell who always tells the truth and who always lies; each puzzle has one solution."""

    kind: Literal["knights_knaves"]
    people: int = Field(3, ge=2, le=6)
    """How many people make a statement each."""
    n_train: int | None = Field(None, ge=1)
    """Puzzles to train on; default: all others of up to three people, 20,000 of more."""
    n_eval: int = Field(128, ge=1)
    """Puzzles held out for evaluation; never trained on."""
    n_validation: int = Field(0, ge=0)
    """Puzzles held out besides, to tune on (`eval.split`); never trained on."""
    seed: int = 0
    """Decides which puzzles are held out."""
    prompt_style: Literal["plain", "chat"] = "plain"
    """`plain`: `B = N ; A & C ; A # B :`, the answer is the whole completion, `K N K`. `chat`: a
    user turn in English that asks for `<think>` and `<answer>`; a wrong answer earns 0.1."""


class MathDataset(Section):
    """A data set of mathematical problems with their answers."""

    dataset: str
    """Hub id, directory, or a .jsonl, .json, .csv, .tsv or .parquet file, compressed (.gz, .bz2,
    .xz, .zst) or not."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: str = "train"
    """The split of the data set, by its own name for it; a file is all `train`."""
    problem_field: str = "problem"
    """Column of the problem, a text or a chat (a list of turns with `role` and `content`);
    `outer.inner` for a field of a structured one."""
    answer_field: str = "answer"
    """Column of the answer: LaTeX, a number, a list, or a solution that ends in a \\boxed answer,
    in `#### 5` or in "The answer is 5"."""
    n: int | None = Field(None, ge=1)
    """Only the first n rows; default: all."""


class MathTask(Section):
    """Solve mathematical problems; the final answer stands in a box. Needs `asyncds[math]`."""

    kind: Literal["math"]
    train: tuple[MathDataset, ...] = Field(min_length=1)
    """Data sets to train on. Problems that are in `eval` too are left out."""
    eval: tuple[MathDataset, ...] = Field(min_length=1)
    """Data sets to evaluate on, one after the other; never trained on."""
    n_validation: int = Field(0, ge=0)
    """Problems of `train` held out to tune on (`eval.split`); never trained on."""
    seed: int = 0
    """Decides which problems are held out."""
    chat: ChatConfig = ChatConfig()
    """How the problem is put to the model."""


class ReasoningGymTask(Section):
    """Problems that the package reasoning-gym generates and judges. Needs `asyncds[reasoning]`."""

    kind: Literal["reasoning_gym"]
    dataset: str
    """Its name there, such as `knights_knaves`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of its generator, such as `n_people: 3`."""
    n_train: int = Field(2_000, ge=1)
    """Problems to train on. They are generated by every process, which may take 10 ms for each."""
    n_eval: int = Field(128, ge=1)
    """Problems held out for evaluation; never trained on."""
    n_validation: int = Field(0, ge=0)
    """Problems held out besides, to tune on (`eval.split`); never trained on."""
    seed: int = 0
    """Seed of the generator."""
    chat: ChatConfig = ChatConfig()
    """How the problem is put to the model."""


TaskConfig = CountdownTask | KnightsKnavesTask | MathTask | ReasoningGymTask | OpenKind
if TYPE_CHECKING:
    AnyTask = TaskConfig
else:
    AnyTask = one_of((CountdownTask, KnightsKnavesTask, MathTask, ReasoningGymTask))


def task_options(task: TaskConfig) -> dict[str, Any]:
    """What the task is made with, beside its kind."""
    return task.options if isinstance(task, OpenKind) else task.model_dump(exclude={"kind"})


def data_sets(task: TaskConfig) -> list[str]:
    """The data sets that a task reads."""
    if isinstance(task, MathTask):
        return [source.dataset for source in (*task.train, *task.eval)]
    return [task.dataset] if isinstance(task, CountdownTask) and task.dataset else []


def makes_chats(task: TaskConfig) -> bool:
    """Whether a task's prompts are chats, which need a chat template."""
    return (
        isinstance(task, MathTask | ReasoningGymTask)
        or getattr(task, "prompt_style", "plain") == "chat"
    )
