"""The task's part of the configuration. docs/tasks.md says what each is."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from asyncds.choices.one_of import one_of
from asyncds.choices.open_kind import OpenKind
from asyncds.config.sandbox import SandboxConfig
from asyncds.config.section import Seconds, Section


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
    """Options shared by tasks that ask in either of two styles."""

    prompt_style: Literal["plain", "chat"] = "plain"
    chat: ChatConfig = ChatConfig()
    """Details of `prompt_style: chat`."""

    @model_validator(mode="after")
    def _chat_has_effect(self) -> "_PlainOrChat":
        if self.prompt_style == "plain" and self.chat != ChatConfig():
            raise ValueError("task.chat has no effect with prompt_style plain: set it to chat")
        return self


class _CountdownProblems(Section):
    """Problems of Countdown."""

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
    equivalence: Literal["written", "commutative", "associative"] = "written"
    """Which correct answers count as the same one: those written the same, or the same up to the
    order of operands, or up to their grouping too."""


class CountdownTask(_CountdownProblems, _PlainOrChat):
    """Reach a target number from given numbers, each used exactly once, with + - * and ( )."""

    kind: Literal["countdown"] = "countdown"
    prompt_style: Literal["plain", "chat"] = "plain"
    """`plain`: `2 5 10 = 30 :`, the answer is the whole completion. `chat`: a user turn that asks
    for `<think>` and `<answer>`; a wrong but well-formed answer earns 0.1."""
    dataset: str | None = None
    """A data set with the columns `nums` and `target` instead of generated problems: a hub id, a
    directory, or a file."""
    dataset_operands: int | None = Field(None, ge=2, le=6)
    """Only the problems of the data set with so many numbers; default: all."""


class CalculatorTask(_CountdownProblems):
    """Countdown as an environment: a turn that ends in `=` is answered by a calculator.

    Any other turn is the answer, which counts if the calculator was asked for it before.
    """

    kind: Literal["calculator"]


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


class DataSource(Section):
    """A data set, or a part of one."""

    dataset: str
    """Hub id, directory, or a .jsonl, .json, .csv, .tsv or .parquet file, compressed (.gz, .bz2,
    .xz, .zst) or not."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: str = "train"
    """The split of the data set, by its own name for it; a file is all `train`."""
    n: int | None = Field(None, ge=1)
    """Only the first n rows; default: all."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_][\w.-]{0,39}$")
    """What results call it where it is evaluated; parts of one name have one result together.
    Default: the last part of its id or path."""


class MathDataset(DataSource):
    """A data set of mathematical problems with their answers."""

    problem_field: str = "problem"
    """Column of the problem, a text or a chat (a list of turns with `role` and `content`);
    `outer.inner` for a field of a structured one."""
    answer_field: str = "answer"
    """Column of the answer: LaTeX, a number, a list, or a solution that ends in a \\boxed answer,
    in `#### 5` or in "The answer is 5"."""


class MathTask(Section):
    """Solve mathematical problems; the final answer stands in a box. Needs `asyncds[math]`."""

    kind: Literal["math"]
    train: tuple[MathDataset, ...] = ()
    """Data sets to train on. Problems that are in `eval` too are left out. An evaluation does
    without."""
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


def _sources(value: Any) -> Any:
    """One data set is a list of one, and its name alone is enough."""
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | dict | DataSource) for one in values):
        raise ValueError("a data set is a hub id or a path, or `{dataset: …, split: …}`")
    return [{"dataset": one} if isinstance(one, str) else one for one in values]


class RewardConfig(Section):
    """A reward function; its name alone is enough: `reward: my_rewards:fair`."""

    fn: str
    """`exact`, `math`, `regex`, or `package.module:function` for your own."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """What it is multiplied by in the sum of several."""
    name: str | None = Field(None, pattern=r"^[A-Za-z_][\w.-]{0,39}$")
    """What it is called in metrics; default: the function's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the function, by the names of its parameters."""


def _reward(value: Any) -> Any:
    if not isinstance(value, str | dict | RewardConfig):
        raise ValueError("a reward is `package.module:function`, or `{fn: …, weight: …}`")
    return {"fn": value} if isinstance(value, str) else value


Sources = Annotated[
    tuple[DataSource, ...],
    BeforeValidator(_sources, json_schema_input_type=str | DataSource | list[str | DataSource]),
]
AReward = Annotated[
    RewardConfig, BeforeValidator(_reward, json_schema_input_type=str | RewardConfig)
]


class DataTask(Section):
    """Options of tasks whose rows come from data sets."""

    train: Sources = ()
    """Data to train on: a hub id, a directory, a file, or a list of them. Rows whose prompt is in
    `eval` too are left out. An evaluation does without, if there is `eval`."""
    eval: Sources = ()
    """Data to evaluate on; never trained on. Default: `n_eval` rows of `train`."""
    prompt: str = "prompt"
    """A column (a text, or a chat: a list of turns with `role` and `content`), or a text with
    columns in braces, such as `Question: {question}`; `{{word}}` is the text `{word}`."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows that are broken, empty, without an answer, or too long: the run is
    refused, or it does without them."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longer prompts count as bad rows; default: none do."""
    n_eval: int | None = Field(None, ge=1)
    """Rows of `train` held out for evaluation where there is no `eval`; never trained on.
    Default: 128."""
    n_validation: int = Field(0, ge=0)
    """Rows of `train` held out to tune on (`eval.split`); never trained on."""
    seed: int = 0
    """Decides which rows are held out."""
    prompt_style: Literal["plain", "chat"] = "chat"
    """`chat`: the prompt is a user turn in the model's chat template. `plain`: it is encoded as it
    stands, as for a base model without a template."""
    chat: ChatConfig = ChatConfig()
    """Details of `prompt_style: chat`, such as the system text."""

    @model_validator(mode="after")
    def _one_way_of_everything(self) -> "DataTask":
        if not self.train and (not self.eval or self.n_validation):
            raise ValueError("task.train names no data: give a file or a hub id")
        if self.eval and self.n_eval is not None:
            raise ValueError("task.n_eval has no effect with task.eval: give `n` of a data set")
        if self.prompt_style == "plain" and self.chat != ChatConfig():
            raise ValueError("task.chat has no effect with prompt_style plain: leave it out")
        return self


class RewardedTask(DataTask):
    """Options of tasks whose answers are judged by rewards."""

    answer: str | None = "answer"
    """Column of the right answer; null if no reward needs one."""
    reward: AReward | None = None
    """What a completion is worth."""
    rewards: tuple[AReward, ...] = Field((), max_length=16)
    """Several instead: the reward is their weighted sum, and each is logged by its name."""
    correct_by: str | None = None
    """Name of the reward that says whether a completion is correct; default: the first."""
    correct_at: float = 1.0
    """A reward that is only a number says so from this value on."""

    @model_validator(mode="after")
    def _there_is_a_reward(self) -> "RewardedTask":
        if (self.reward is None) == (not self.rewards):
            raise ValueError("set task.reward, or a list of several in task.rewards")
        return self


class DatasetTask(RewardedTask):
    """Your own data with your own reward."""

    kind: Literal["dataset"]


class PythonToolTask(RewardedTask):
    """Your own data with your own reward, and Python as a tool: an environment."""

    kind: Literal["python_tool"]
    rewards: tuple[AReward, ...] = Field((), max_length=14)
    """Several instead: the reward is their weighted sum, and each is logged by its name."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a program that the model has run; those of one turn have the time of one
    together."""


class CodeTask(DataTask):
    """Write a Python program; it is run, in a sandbox, on cases that each row has."""

    kind: Literal["code"]
    inputs: str | None = None
    """Column of the cases' standard inputs, a list of texts (or a text with such a list in JSON);
    `outer.inner` for a field of a structured one, or of each in a list."""
    outputs: str | None = None
    """Column of what a right program prints for each of them."""
    tests: str | None = None
    """Unit tests instead: a column (a text or a list of texts, a case each), or a text with columns
    in braces, such as `{test} check({entry_point})`."""
    max_cases: int | None = Field(None, ge=1)
    """Only the first cases of a row; default: all."""
    solution: str | None = None
    """Column of a right program, which `asyncds task check` tries."""
    partial: bool = False
    """The reward is the share of cases that hold. Else it is 1 where all do and 0 where one does
    not, and no case is run after that."""
    seconds: Seconds = 8
    """Longest time for all cases of an answer, by the clock; it has to be shorter than
    `scoring.timeout_seconds`."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a run of the program, of which each case is one."""

    @model_validator(mode="after")
    def _one_kind_of_cases(self) -> "CodeTask":
        if (self.tests is None) == (self.inputs is None) or bool(self.inputs) != bool(self.outputs):
            raise ValueError(
                "set task.inputs and task.outputs, or task.tests: columns of the cases"
            )
        return self


_KINDS = (
    CalculatorTask,
    CodeTask,
    CountdownTask,
    DatasetTask,
    KnightsKnavesTask,
    MathTask,
    PythonToolTask,
    ReasoningGymTask,
)
OneTask = (
    CalculatorTask
    | CodeTask
    | CountdownTask
    | DatasetTask
    | KnightsKnavesTask
    | MathTask
    | PythonToolTask
    | ReasoningGymTask
    | OpenKind
)
if TYPE_CHECKING:
    APart = OneTask
else:
    APart = one_of(_KINDS)


class MixtureTask(Section):
    """Several tasks in one run. A group is of one task; a batch has groups of all."""

    kind: Literal["mixture"]
    tasks: dict[str, APart] = Field(min_length=1, max_length=16)
    """The tasks, each as it would stand alone, by names of your own. Metrics and evaluation sets
    are called after these."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """How many of the prompts are each one's, relative to the others: 2 is twice as many as 1,
    which is the weight of those that are not named."""

    @field_validator("tasks")
    @classmethod
    def _names_are_labels(cls, tasks: dict[str, OneTask]) -> dict[str, OneTask]:
        if bad := [name for name in tasks if not re.fullmatch(r"\w[\w-]{0,19}", name, re.ASCII)]:
            raise ValueError(
                f"{bad[0]!r} can't be the name of a task: use up to 20 letters, digits, _ and -"
            )
        return tasks

    @model_validator(mode="after")
    def _weighs_its_tasks(self) -> "MixtureTask":
        if unknown := set(self.weights) - set(self.tasks):
            raise ValueError(
                f"task.weights names {', '.join(sorted(unknown))}, and task.tasks has "
                f"{', '.join(self.tasks)}: use the same names"
            )
        return self


TaskConfig = OneTask | MixtureTask
if TYPE_CHECKING:
    AnyTask = TaskConfig
else:
    AnyTask = one_of((*_KINDS, MixtureTask))


def each_task(task: TaskConfig) -> dict[str, OneTask]:
    """The tasks that a task consists of, by where they stand in the configuration."""
    if not isinstance(task, MixtureTask):
        return {"task": task}
    return {f"task.tasks.{name}": part for name, part in task.tasks.items()}


def task_weights(task: TaskConfig) -> dict[str, float]:
    """How much of the prompts are each one's, by its name; {} of a task that is no mixture."""
    if not isinstance(task, MixtureTask):
        return {}
    return {name: task.weights.get(name, 1.0) for name in task.tasks}


def task_options(task: TaskConfig, *, tokenizer: str) -> dict[str, Any]:
    """Options that the task is made with, beside its kind.

    tokenizer: the run's, for a task that counts tokens.
    """
    if isinstance(task, OpenKind):
        return task.options
    if isinstance(task, MixtureTask):
        return {
            "tasks": {
                name: {"kind": part.kind, "options": task_options(part, tokenizer=tokenizer)}
                for name, part in task.tasks.items()
            }
        }
    options = task.model_dump(exclude={"kind"})
    return options | {"tokenizer": tokenizer} if isinstance(task, DataTask) else options


def without_training_data(task: TaskConfig) -> str:
    """Why a task, or one that it consists of, has nothing to train on, or ""."""
    for where, part in each_task(task).items():
        if isinstance(part, MathTask | DataTask) and not part.train:
            return f"{where}.train names no data: give a file or a hub id"
    return ""


def without_validation(task: TaskConfig) -> bool:
    """Whether a task is known to hold no problems out to tune on."""
    return not any(getattr(part, "n_validation", 1) for part in each_task(task).values())


def data_sets(task: TaskConfig) -> list[str]:
    """The data sets that a task reads."""
    found: list[str] = []
    for part in each_task(task).values():
        if isinstance(part, MathTask | DataTask):
            found += [source.dataset for source in (*part.train, *part.eval)]
        elif isinstance(part, CountdownTask) and part.dataset:
            found.append(part.dataset)
    return found


def makes_chats(task: OneTask) -> bool:
    """Whether a task's prompts are chats, which need a chat template."""
    return (
        isinstance(task, MathTask | ReasoningGymTask)
        or getattr(task, "prompt_style", "plain") == "chat"
    )
