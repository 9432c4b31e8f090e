"""Settings of LoRA: an adapter is trained instead of the model's own weights."""

from typing import Annotated, Literal

from pydantic import Field

from asyncds.config.section import Section

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for."""


class LoraConfig(Section):
    """An adapter (LoRA, Hu et al. 2021): W + s·B·A, of which A and B alone are trained.

    They begin with B = 0, which is the model as it is. s is alpha/rank. There is no dropout: the
    policy is a function of its weights. A learning rate some ten times that of full training is
    usual.
    """

    rank: int = Field(16, ge=1, le=SERVED_RANKS[-1])
    """Rows of A and columns of B."""
    alpha: int = Field(32, ge=1)
    """Numerator of the scale s."""
    rank_stabilised: bool = False
    """Let s be alpha/√rank (rsLoRA)."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """The linear layers that get an adapter, by the last part of their names, such as q_proj;
    `all-linear`: all but the output head."""
    publish: Literal["adapter", "merge"] = "adapter"
    """How engines get it. adapter: A and B are sent, and vLLM computes with them beside the model.
    merge: whole weights, W + s·B·A rounded to dtype, are sent as without LoRA. Sampling is faster
    with merged weights, sending with adapters."""

    @property
    def served_rank(self) -> int:
        """The rank that an engine makes room for."""
        return min(rank for rank in SERVED_RANKS if rank >= self.rank)
