"""The two things that Keras leaves to its backends.

Everything else in the library is `keras.ops`. What a backend does in the train
step is in `trainers/`.
"""

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


def value_and_gradients(function, arguments):
    """A scalar function's value and its gradient in each argument.

    Args:
        function: callable from the arguments to a scalar tensor.
        arguments: list of float tensors.

    Returns:
        `(value, gradients)`, the second a list of tensors.
    """
    return _value_and_gradients(function, list(arguments))


_vmap_friendly = contextlib.nullcontext

if keras.config.backend() == "jax":
    import jax

    def _value_and_gradients(function, arguments):
        return jax.value_and_grad(lambda args: function(*args))(arguments)

elif keras.config.backend() == "tensorflow":
    import tensorflow as tf

    def _value_and_gradients(function, arguments):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(arguments)
            value = function(*arguments)
        unconnected = tf.UnconnectedGradients.ZERO
        return value, tape.gradient(
            value, arguments, unconnected_gradients=unconnected
        )

elif keras.config.backend() == "torch":
    import torch

    def _value_and_gradients(function, arguments):
        arguments = [x.detach().requires_grad_() for x in arguments]
        with torch.enable_grad():
            value = function(*arguments)
            gradients = torch.autograd.grad(
                value, arguments, allow_unused=True, materialize_grads=True
            )
        return value.detach(), list(gradients)

    def _narrow_at_tensor_index(x, dim, start, length):
        index = start + torch.arange(length, device=x.device)
        return torch.index_select(x, dim, index)

    # The library object keeps the registration alive.
    _LIBRARY = torch.library.Library("aten", "IMPL")
    _LIBRARY.impl("narrow.Tensor", _narrow_at_tensor_index, "FuncTorchBatched")

    def _vmap_friendly():
        return torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.MATH
        )
