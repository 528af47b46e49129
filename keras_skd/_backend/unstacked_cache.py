"""Caches of KerasHub with a tensor for each layer's keys and for its values.

Most models of KerasHub keep them in one tensor. Each layer slices its own out
of it, and after the last layer all are stacked again. XLA copies the whole
cache in each of these steps: for a token after a thousand others, that takes
longer than reading all weights, and it is much to compile. Here, they are
tensors of their own, which XLA updates in place.

PyTorch does this in its traced graphs: see `torch/passes/reinplace.py`.
"""

import contextlib

import keras
from keras import ops


def unstacked_spec(spec):
    """The tensors of an unstacked cache, each without a value.

    Args:
        spec: the `KerasTensor` of the cache, of shape
            `(batch, layers, 2, ...)`.

    Returns:
        A tuple with a pair `(key, value)` for each layer.
    """
    batch_size, num_layers, num_parts, *rest = spec.shape
    part = keras.KerasTensor((batch_size, *rest), spec.dtype)
    return ((part,) * num_parts,) * num_layers


def call_with_unstacked_cache(call_with_cache, cache):
    """Calls a model as if its cache were one tensor.

    Args:
        call_with_cache: callable from the cache to `(logits, hidden_states,
            cache)`. It does nothing with the cache but slicing it by layers and
            updating it.
        cache: a tuple with a pair `(key, value)` for each layer.

    Returns:
        `(logits, hidden_states, cache)`, with a cache of the same structure.
    """
    with _unstacked():
        logits, hidden_states, cache = call_with_cache(
            _Unstacked(map(_Unstacked, cache))
        )
    cache = tuple(tuple(layer.tensors) for layer in cache.tensors)
    return logits, hidden_states, cache


class _Unstacked:
    """Stands for `ops.stack(tensors, axis=1)`.

    Args:
        tensors: iterable of tensors, or of others of this class.
    """

    def __init__(self, tensors):
        self.tensors = list(tensors)

    @property
    def shape(self):
        batch_size, *rest = self.tensors[0].shape
        return (batch_size, len(self.tensors), *rest)

    def __getitem__(self, key):
        rows, index, *rest = key
        if rows != slice(None) or rest not in ([], [...]):
            raise NotImplementedError(f"[{key}] of an unstacked cache")
        return self.tensors[index]


@contextlib.contextmanager
def _unstacked():
    """A context in which updated tensors are not stacked."""
    originals = ops.slice_update, ops.stack, ops.shape
    # By `id`: the tensor, so that no other has this `id`.
    updated = {}

    def slice_update(inputs, start_indices, updates):
        result = originals[0](inputs, start_indices, updates)
        updated[id(result)] = result
        return result

    def stack(x, axis=0):
        is_cache = axis == 1 and all(
            isinstance(part, _Unstacked) or id(part) in updated for part in x
        )
        return _Unstacked(x) if is_cache else originals[1](x, axis=axis)

    def shape(x):
        return x.shape if isinstance(x, _Unstacked) else originals[2](x)

    ops.slice_update, ops.stack, ops.shape = slice_update, stack, shape
    try:
        yield
    finally:
        ops.slice_update, ops.stack, ops.shape = originals
