"""The configuration of `asyncds sft`: supervised training on answers, a warm start for a run."""

from typing import Literal

from pydantic import Field, model_validator

from asyncds.config.engines import CheckpointPace, LearnerConfig
from asyncds.config.section import Section
from asyncds.config.tasks import ChatConfig, Sources


class SftData(Section):
    """Rows with a question and its answer. The loss is on answers only."""

    train: Sources
    """Data to train on: a hub id, a directory, a file, or a list of them."""
    eval: Sources = ()
    """Data whose loss is measured. Default: `n_eval` rows of `train`."""
    n_eval: int = Field(0, ge=0)
    """Rows of `train` held out to measure the loss on, where there is no `eval`."""
    prompt: str = "prompt"
    """A column (a text, or a chat: a list of turns with `role` and `content`), or a text with
    columns in braces, as in `task: {kind: dataset}`."""
    completion: str = "completion"
    """Column of the answer."""
    messages: str | None = None
    """Column of whole chats instead: every turn of the assistant is an answer, to what is before
    it."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows that are broken, empty, without an answer, or too long: the training is
    refused, or it does without them."""
    max_tokens: int | None = Field(None, ge=2)
    """Longest prompt and answer together; longer ones count as bad rows. Default: what the model
    has positions for."""
    prompt_style: Literal["plain", "chat"] = "chat"
    """`chat`: the prompt is a user turn in the model's chat template. `plain`: it is encoded as it
    stands, as for a base model without a template."""
    chat: ChatConfig = ChatConfig()
    """Details of `prompt_style: chat`, such as the system text."""

    @model_validator(mode="after")
    def _one_way_of_everything(self) -> "SftData":
        if not self.train:
            raise ValueError("data.train names no data: give a file or a hub id")
        if self.eval and self.n_eval:
            raise ValueError("data.n_eval has no effect with data.eval: leave it out")
        if self.prompt_style == "plain" and (self.chat != ChatConfig() or self.messages):
            raise ValueError(
                "data.chat and data.messages have no effect with prompt_style plain: set it to chat"
            )
        return self


class SftBatches(Section):
    """How the rows are cut into batches."""

    size: int = Field(64, ge=1)
    """Answers in one optimizer step, over all ranks."""
    epochs: float = Field(1.0, gt=0)
    """How often every row is seen, in an order of its own each time."""
    eval_every: int = Field(50, ge=1)
    """Steps between measurements of the held-out loss; it is measured before and after all steps
    too."""


class SftLearner(LearnerConfig):
    """The DeepSpeed learner, with defaults for supervised training."""

    lr: float = Field(1e-5, gt=0)
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate goes on after warm-up; linear and cosine end at 0."""


class SftCheckpoints(CheckpointPace):
    """When checkpoints are written, and what is kept."""

    every: int = Field(200, ge=1)
    """Steps between checkpoints; one more is written at the end."""
    keep_last: int = Field(1, ge=1)
    """Older ones are deleted."""


class SftConfig(Section):
    """A supervised training."""

    name: str = Field("sft", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Its directory is `<runs_dir>/<name>`."""
    runs_dir: str = Field("runs", min_length=1)
    """Where directories of runs are made."""
    model: str = Field(min_length=1)
    """The base model: a Hugging Face directory, or a hub id."""
    tokenizer: str | None = Field(None, min_length=1)
    """Its tokenizer, if not in the model's directory."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the order of rows, and of which are held out."""
    data: SftData
    batches: SftBatches = SftBatches()
    learner: SftLearner = SftLearner()
    checkpoint: SftCheckpoints = SftCheckpoints()

    @model_validator(mode="after")
    def _fits_together(self) -> "SftConfig":
        if self.batches.size < self.learner.ranks:
            raise ValueError(
                f"batches.size {self.batches.size} is too few for {self.learner.ranks} "
                "learner.ranks: raise it"
            )
        if self.dtype == "bfloat16" and self.learner.zero_stage == 0:
            raise ValueError(
                "learner.zero_stage 0 keeps no float32 copy of bfloat16 weights, and small updates "
                "would be rounded away: choose zero_stage 1, or dtype float32"
            )
        return self
