"""The shape of a language model: its tensors, and the sizes that memory and arithmetic follow from.

Nothing here reads a file or loads a weight; ``families`` makes a shape from a ``config.json``.
"""

from dataclasses import dataclass
from math import prod

_OUTSIDE = ("embedding", "head", "final")
"""The first parts of the names of tensors that are in no layer."""


@dataclass(frozen=True)
class Tensor:
    """One kind of parameter: its name in the model or a layer, its shape, how many there are."""

    name: str
    shape: tuple[int, ...]
    count: int = 1

    @property
    def size(self) -> int:
        """Elements of one of them."""
        return prod(self.shape)

    @property
    def total(self) -> int:
        """Elements of all of them."""
        return self.size * self.count


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model's parameters by kind, and its sizes.

    family: the ``model_type`` of its configuration. width: of the residual stream. mlp_width: of
    the hidden layer of one expert, or of the whole MLP; gated: whether that is a product of two.
    experts, experts_per_token: 0 and 1 in a dense model. sparse_layers: those that have experts;
    dense_width: mlp_width of the others. window: how far back the windowed layers look; None
    without any. positions: longest sequence.
    """

    family: str
    tensors: tuple[Tensor, ...]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    gated: bool
    vocabulary: int
    tied: bool
    positions: int | None
    experts: int = 0
    experts_per_token: int = 1
    sparse_layers: int = 0
    dense_width: int = 0
    window: int | None = None
    windowed_layers: int = 0

    @property
    def parameters(self) -> int:
        """All parameters; a tied output projection is the embedding, and counts once."""
        return sum(tensor.total for tensor in self.tensors)

    @property
    def parameters_per_token(self) -> int:
        """Parameters that a token is multiplied with.

        Of the experts those that it is sent to, the output projection also where it is tied, and no
        embedding, which is only looked up.
        """
        used = 0.0
        for tensor in self.tensors:
            if tensor.name == "embedding":
                used += tensor.total if self.tied else 0
            elif tensor.name.startswith("experts."):
                used += tensor.total * self.experts_per_token / self.experts
            else:
                used += tensor.total
        return int(used)

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts."""
        return sum(t.total for t in self.tensors if t.name.startswith("experts."))

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest tensor: it travels, and is gathered, in one piece."""
        return max(tensor.size for tensor in self.tensors)

    @property
    def layer_parameters(self) -> int:
        """Parameters of a layer, on average."""
        outside = sum(t.total for t in self.tensors if t.name.split(".")[0] in _OUTSIDE)
        return (self.parameters - outside) // self.layers

    def kv_bytes(self, tokens: float, *, itemsize: int) -> float:
        """Bytes of keys and values of one sequence of so many tokens.

        A windowed layer keeps as many as it looks back.
        """
        per_layer = 2 * self.kv_heads * self.head_width * itemsize
        whole = self.layers - self.windowed_layers
        kept = min(tokens, self.window) if self.window else tokens
        return per_layer * (whole * tokens + self.windowed_layers * kept)
