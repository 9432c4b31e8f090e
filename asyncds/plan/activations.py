"""Bytes that a forward pass keeps for the backward pass, and that both need besides.

Counted from the operations of transformers' layers and of the output projection in
``engine.policy_model``; a test holds the latter against a measurement.
"""

from asyncds.plan.families import FAMILIES
from asyncds.plan.shape import ModelShape

FLOAT32 = 4
_LOGIT_COPIES = 6
"""float32 tensors [rows, vocabulary] that exist at once in the backward pass of the head."""


def kept_by_layer(shape: ModelShape, itemsize: int) -> float:
    """Bytes a token that one layer keeps where nothing is recomputed."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    family = FAMILIES[shape.family]
    # A norm keeps its input in float32, the normalised input, and what it hands on.
    norm = FLOAT32 + 2 * itemsize
    norms = family.norms * norm * shape.width
    if family.qk_norm:
        norms += (FLOAT32 + itemsize) * (queries + keys)
    # Queries, keys, values and the result; its sums are a float32 a head.
    attention = (2 * queries + 2 * keys) * itemsize + FLOAT32 * shape.heads
    return norms + attention + _mlp(shape, itemsize)


def scratch_of_layer(shape: ModelShape, itemsize: int) -> float:
    """Bytes a token of gradients that exist at once in the backward pass of a layer."""
    inner = shape.mlp_width * shape.experts_per_token
    return itemsize * (3 * inner + 2 * shape.width)


def head_scratch(shape: ModelShape, *, rows: int, itemsize: int) -> float:
    """Bytes of the output projection's backward pass, ``rows`` positions at a time.

    Logits and their gradient, or the gradient of the projection: in float32 and, of a chunk, in
    the model's precision.
    """
    plane, weight = rows * shape.vocabulary, shape.vocabulary * shape.width
    logits = _LOGIT_COPIES * FLOAT32 * plane
    projection = (2 * FLOAT32 + itemsize) * plane + itemsize * weight
    return FLOAT32 * weight + max(logits, projection)


def _mlp(shape: ModelShape, itemsize: int) -> float:
    """The MLP's inner activations: gate, its activation, the other half and their product."""
    inner = 4 if shape.gated else 2
    dense = inner * itemsize * (shape.dense_width or shape.mlp_width)
    if not shape.experts:
        return dense
    # A token is copied to each of its experts, and what comes back is too, before it is summed.
    copies = shape.experts_per_token * (inner * shape.mlp_width + 2 * shape.width)
    sparse = itemsize * copies + 2 * FLOAT32 * shape.experts
    share = shape.sparse_layers / shape.layers
    return share * sparse + (1 - share) * dense
