"""The two things that Keras leaves to its backends.

Everything else in the library is `keras.ops`. What a backend does in the train
step is in `trainers/`.
"""

import contextlib
import warnings

import keras
from keras import ops
from keras import tree


def row_map(function, elements):
    """`keras.ops.vectorized_map` for functions that run a KerasHub model.

    On PyTorch two things stand in the way of `torch.vmap`: slicing at a tensor
    index has no batching rule (GPT-2, OPT and Gemma 2 read positions and masks
    that way), and fused attention falls back to a loop over the rows. The rule
    is added below, and attention is asked for its plain implementation. On
    TensorFlow it only keeps a warning from coming up once a layer.

    Args:
        function: callable that maps one row's slices of `elements`.
        elements: nested structure of tensors with equal first dimension.

    Returns:
        The outputs of `function`, stacked along a new first dimension.
    """
    with _vmap_friendly():
        return ops.vectorized_map(function, elements)


def replayed(function, variables):
    """`function`, without the Python of Keras' layers after the first call.

    Where a backend compiles the loop around it, this is `function` itself. On
    PyTorch it is traced once for each shape of its arguments and then replayed,
    operation by operation: for a model of small steps, most of the time of a
    call is spent in Python. What cannot be traced is called as it is.

    Args:
        function: callable from nested structures of tensors to nested
            structures of tensors, without side effects.
        variables: callable that returns the `keras.Variable`s that it reads.
    """
    return _replayed(function, variables)


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


def _replayed(function, variables):
    return function


if keras.config.backend() == "jax":
    import jax

    def _value_and_gradients(function, arguments):
        return jax.value_and_grad(lambda args: function(*args))(arguments)

elif keras.config.backend() == "tensorflow":
    import tensorflow as tf

    @contextlib.contextmanager
    def _vmap_friendly():
        # Each cache update is warned about: TensorFlow makes a loop over the
        # rows of it, which XLA compiles to something cheap.
        def is_news(record):
            return (
                "Using a while_loop for converting" not in record.getMessage()
            )

        tf.get_logger().addFilter(is_news)
        try:
            yield
        finally:
            tf.get_logger().removeFilter(is_news)

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
    from torch.fx.experimental.proxy_tensor import make_fx

    def _replayed(function, variables):
        graphs = {}

        def trace(state, values, arguments):
            def traced(values, *arguments):
                with keras.StatelessScope(zip(state, values)):
                    return function(*arguments)

            try:
                return make_fx(traced)(values, *arguments)
            except Exception as error:
                warnings.warn(
                    "A decoding step cannot be traced, and runs in Python at "
                    f"each token, which takes longer ({type(error).__name__}).",
                    stacklevel=2,
                )
                return lambda values, *arguments: function(*arguments)

        def call(*arguments):
            state = variables()
            key = (
                *(id(v) for v in state),
                *((x.shape, x.dtype) for x in tree.flatten(arguments)),
            )
            values = [v.value for v in state]
            if key not in graphs:
                graphs[key] = trace(state, values, arguments)
            return graphs[key](values, *arguments)

        return call

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
