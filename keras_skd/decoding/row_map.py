"""Mapping a model over the rows of a batch, on every backend."""

import contextlib

import keras
from keras import ops


def row_map(function, elements):
    """`keras.ops.vectorized_map` for functions that run a KerasHub model.

    On PyTorch two things stand in the way of `torch.vmap`: slicing at a tensor
    index has no batching rule (GPT-2, OPT and Gemma 2 read positions and masks
    that way), and fused attention falls back to a loop over the rows. The rule
    is added below, and attention is asked for its plain implementation.

    Args:
        function: callable that maps one row's slices of `elements`.
        elements: nested structure of tensors with equal first dimension.

    Returns:
        The outputs of `function`, stacked along a new first dimension.
    """
    with _vmap_friendly():
        return ops.vectorized_map(function, elements)


if keras.config.backend() == "torch":
    import torch

    # The library object keeps the registration alive.
    _LIBRARY = torch.library.Library("aten", "IMPL")

    def _narrow_at_tensor_index(x, dim, start, length):
        index = start + torch.arange(length, device=x.device)
        return torch.index_select(x, dim, index)

    def _vmap_friendly():
        return torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.MATH
        )

    _LIBRARY.impl("narrow.Tensor", _narrow_at_tensor_index, "FuncTorchBatched")
else:
    _vmap_friendly = contextlib.nullcontext
