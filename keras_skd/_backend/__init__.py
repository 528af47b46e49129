"""What Keras leaves to its backends, one file for each of them.

Everything else in the library is `keras.ops`. What a backend does in the train
step is in `trainers/`.
"""

import keras
from keras import ops

if keras.config.backend() == "jax":
    from keras_skd._backend.jax import RolloutTrainer
    from keras_skd._backend.jax import operations as backend
elif keras.config.backend() == "tensorflow":
    from keras_skd._backend.tensorflow import RolloutTrainer
    from keras_skd._backend.tensorflow import operations as backend
elif keras.config.backend() == "torch":
    from keras_skd._backend.torch import RolloutTrainer
    from keras_skd._backend.torch import operations as backend
else:
    raise ImportError(
        "keras_skd trains with the 'jax', 'tensorflow' and 'torch' backends of "
        f"Keras. Received: KERAS_BACKEND={keras.config.backend()!r}"
    )


def row_map(function, elements):
    """`keras.ops.vectorized_map` for functions that run a KerasHub model.

    On PyTorch, `torch.vmap` fails on some layers, and multiplies with weights
    and attends one row at a time: `backend/torch.py` gives it other operations.
    On TensorFlow, this only keeps a warning from coming up once a layer.

    Args:
        function: callable that maps one row's slices of `elements`.
        elements: nested structure of tensors with equal first dimension.

    Returns:
        The outputs of `function`, stacked along a new first dimension.
    """
    with backend.row_map_scope():
        return ops.vectorized_map(function, elements)


def replayed(function, variables, donated=None):
    """`function`, without the Python of Keras' layers after the first call.

    Where a backend compiles the loop around it, this is `function` itself. On
    PyTorch it is traced once for each shape of its arguments and then replayed,
    operation by operation: for a model of small steps, most of the time of a
    call is spent in Python. What cannot be traced is called as it is.

    Args:
        function: callable from nested structures of tensors to nested
            structures of tensors, without side effects.
        variables: callable that returns the `keras.Variable`s that it reads.
        donated: int. The number of an argument that is not used after a call,
            which may write its results there. Defaults to `None`.
    """
    return backend.replayed(function, variables, donated)


def value_and_gradients(function, arguments, totals=()):
    """A scalar function's value and its gradient in each argument.

    Args:
        function: callable from the arguments to a scalar tensor.
        arguments: list of float tensors.
        totals: list of tensors, to which the gradients in the last arguments
            are added. They are not used again: PyTorch adds in place, as a new
            tensor takes longer than the sum if it is large.

    Returns:
        `(value, gradients)`, the second a list of tensors: the last are the
        new totals.
    """
    return backend.value_and_gradients(function, list(arguments), list(totals))


def scale(x, factor):
    """`x * factor`, for an `x` that is not used again.

    PyTorch scales it in place, and takes its memory: `x` is empty afterwards.
    """
    return backend.scale(x, factor)
