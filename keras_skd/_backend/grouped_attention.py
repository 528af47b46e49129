"""Grouped-query attention without repeated keys and values, for XLA on a CPU.

KerasHub repeats the keys and values of a cache for each query head of a group.
XLA writes these copies to memory, and reads them: for a token after a thousand
others, that takes longer than reading all weights. Here, the query heads of a
group attend to the same keys.

PyTorch does this in its traced graphs: see `torch/passes/patterns.py`.
"""

import contextlib

from keras import ops

# The equations of KerasHub, and the axis of heads in its queries and keys.
_SCORES = "bquh,bkuh->buqk"
_COMBINE = "buqk,bkuh->bquh"
_HEADS = 2

# For so few queries, sums of products are faster than matrix products.
_FEW_QUERIES = 8


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
        if axis == _HEADS and len(x.shape) == 4:
            self._repeated[id(result)] = result, x
        return result

    def einsum(self, subscripts, *operands, **kwargs):
        _, x = self._repeated.get(id(operands[-1]), (None, None))
        if x is not None and subscripts in (_SCORES, _COMBINE):
            num_queries = operands[0].shape[1 if subscripts == _SCORES else 2]
            if _suits(num_queries, x.dtype):
                group = scores if subscripts == _SCORES else combine
                return ops.cast(group(operands[0], x), x.dtype)
        return self.originals[1](subscripts, *operands, **kwargs)

    def dot_product_attention(self, query, key, value, **kwargs):
        _, keys = self._repeated.get(id(key), (None, None))
        _, values = self._repeated.get(id(value), (None, None))
        if (
            keys is None
            or values is None
            or kwargs.keys() != {"mask", "scale"}
            or kwargs["mask"] is None
            or not _suits(query.shape[1], keys.dtype)
        ):
            return self.originals[2](query, key, value, **kwargs)
        logits = ops.cast(scores(query, keys), "float32") * kwargs["scale"]
        logits = ops.where(kwargs["mask"], logits, -1e30)
        weights = ops.softmax(logits, axis=-1)
        return ops.cast(combine(weights, values), values.dtype)


def _suits(num_queries, dtype):
    # In 16 bits, matrix products would round what Keras keeps in 32.
    return num_queries <= _FEW_QUERIES or dtype == "float32"


def scores(query, key):
    """The products of queries with the keys of their group.

    Args:
        query: tensor of shape `(batch, queries, heads, dim)`.
        key: tensor of shape `(batch, keys, groups, dim)`.

    Returns:
        Tensor of shape `(batch, heads, queries, keys)`, in float32.
    """
    _, num_queries, num_heads, dim = query.shape
    num_keys, num_groups = key.shape[1:3]
    query, key = (ops.cast(x, "float32") for x in (query, key))
    query = ops.transpose(query, (0, 2, 1, 3))
    size = num_heads * num_queries // num_groups
    query = ops.reshape(query, (-1, num_groups, size, dim))
    if num_queries <= _FEW_QUERIES:
        products = query[:, None] * key[:, :, :, None]
        result = ops.transpose(ops.sum(products, axis=-1), (0, 2, 3, 1))
    else:
        result = ops.einsum("bgqh,bkgh->bgqk", query, key)
    return ops.reshape(result, (-1, num_heads, num_queries, num_keys))


def combine(weights, value):
    """The sums of the values of a group, weighted for each of its heads.

    Args:
        weights: tensor of shape `(batch, heads, queries, keys)`.
        value: tensor of shape `(batch, keys, groups, dim)`.

    Returns:
        Tensor of shape `(batch, queries, heads, dim)`, in float32.
    """
    _, num_heads, num_queries, num_keys = weights.shape
    num_groups, dim = value.shape[2:]
    weights, value = (ops.cast(x, "float32") for x in (weights, value))
    size = num_heads * num_queries // num_groups
    weights = ops.reshape(weights, (-1, num_groups, size, num_keys))
    if num_queries <= _FEW_QUERIES:
        weights = ops.transpose(weights, (0, 3, 1, 2))
        result = ops.sum(weights[..., None] * value[:, :, :, None], axis=1)
    else:
        result = ops.einsum("bgqk,bkgh->bgqh", weights, value)
    result = ops.reshape(result, (-1, num_heads, num_queries, dim))
    return ops.transpose(result, (0, 2, 1, 3))
