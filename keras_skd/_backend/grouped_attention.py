"""Grouped-query attention without repeated keys and values, for XLA on a CPU.

KerasHub repeats the keys and values of a cache for each query head of a group.
XLA writes these copies to memory, and reads them: for a token after a thousand
others, that takes longer than reading all weights. Here, the query heads of a
group attend to the same keys.

PyTorch does this in its traced graphs: see `torch/passes/patterns.py`.
"""

import contextlib

import keras
from keras import ops

# The equations of KerasHub, and the axis of heads in its queries and keys.
_SCORES = "bquh,bkuh->buqk"
_COMBINE = "buqk,bkuh->bquh"
_HEADS = 2


@contextlib.contextmanager
def grouped_attention():
    """A context in which the layers of KerasHub attend in groups."""
    attention = _Attention(ops.repeat, ops.einsum, ops.dot_product_attention)
    ops.repeat = attention.repeat
    ops.einsum = attention.einsum
    ops.dot_product_attention = attention.dot_product_attention
    try:
        yield
    finally:
        ops.repeat, ops.einsum, ops.dot_product_attention = attention.originals


class _Attention:
    """Operations of Keras that know which keys and values are repeated.

    The repeated ones are made, too, and XLA drops them if nothing reads them.

    Args:
        originals: Keras' `repeat`, `einsum` and `dot_product_attention`.
    """

    def __init__(self, *originals):
        self.originals = originals
        # By the `id` of a repeated tensor: it, so that no other has this `id`,
        # and what was repeated.
        self._repeated = {}

    def repeat(self, x, repeats, axis=None):
        result = self.originals[0](x, repeats, axis=axis)
        # In 16 bits, Keras computes scores in 32.
        is_float = keras.backend.standardize_dtype(x.dtype) == "float32"
        if axis == _HEADS and len(x.shape) == 4 and is_float:
            self._repeated[id(result)] = result, x
        return result

    def einsum(self, subscripts, *operands, **kwargs):
        _, x = self._repeated.get(id(operands[-1]), (None, None))
        if x is not None and subscripts == _SCORES:
            return scores(operands[0], x)
        if x is not None and subscripts == _COMBINE:
            return combine(operands[0], x)
        return self.originals[1](subscripts, *operands, **kwargs)

    def dot_product_attention(self, query, key, value, **kwargs):
        _, keys = self._repeated.get(id(key), (None, None))
        _, values = self._repeated.get(id(value), (None, None))
        if (
            keys is None
            or values is None
            or kwargs.keys() != {"mask", "scale"}
            or kwargs["mask"] is None
        ):
            return self.originals[2](query, key, value, **kwargs)
        logits = scores(query, keys) * kwargs["scale"]
        logits = ops.where(kwargs["mask"], logits, -1e30)
        return combine(ops.softmax(logits, axis=-1), values)


def scores(query, key):
    """The products of queries with the keys of their group.

    Args:
        query: tensor of shape `(batch, queries, heads, dim)`.
        key: tensor of shape `(batch, keys, groups, dim)`.

    Returns:
        Tensor of shape `(batch, heads, queries, keys)`.
    """
    _, num_queries, num_heads, dim = query.shape
    num_keys, num_groups = key.shape[1:3]
    size = num_heads * num_queries // num_groups
    query = ops.transpose(query, (0, 2, 1, 3))
    query = ops.reshape(query, (-1, num_groups, size, dim))
    result = ops.einsum("bgqh,bkgh->bgqk", query, key)
    return ops.reshape(result, (-1, num_heads, num_queries, num_keys))


def combine(weights, value):
    """The sums of the values of a group, weighted for each of its heads.

    Args:
        weights: tensor of shape `(batch, heads, queries, keys)`.
        value: tensor of shape `(batch, keys, groups, dim)`.

    Returns:
        Tensor of shape `(batch, queries, heads, dim)`.
    """
    _, num_heads, num_queries, num_keys = weights.shape
    num_groups, dim = value.shape[2:]
    size = num_heads * num_queries // num_groups
    weights = ops.reshape(weights, (-1, num_groups, size, num_keys))
    result = ops.einsum("bgqk,bkgh->bgqh", weights, value)
    result = ops.reshape(result, (-1, num_heads, num_queries, dim))
    return ops.transpose(result, (0, 2, 1, 3))
