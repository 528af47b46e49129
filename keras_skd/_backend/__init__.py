"""The operations and train steps that differ between backends.

Everything else in the library is `keras.ops`. Each backend has a folder with
the functions below and a `RolloutTrainer`, which runs a rollout before Keras'
train step.

|                       | JAX              | TensorFlow    | PyTorch           |
| --------------------- | ---------------- | ------------- | ----------------- |
| `vmap_rows`           | `vmap`           | pfor          | `vmap`, own rules |
| `on_each_device`      | `shard_map`      | all rows      | all rows          |
| `attention_scope`     | in groups        | in groups     | by traced graphs  |
| `unstacks_caches`     | yes              | yes           | by traced graphs  |
| `replay`              | no-op            | no-op         | traced graph      |
| `value_and_gradients` | `value_and_grad` | GradientTape  | autograd          |
| `scale_in_place`      | new array        | new tensor    | in place          |
| `global_random_state` | none             | none          | of dropout        |
| `sum_over_replicas`   | no-op            | all-reduce    | all-reduce        |
| a rollout             | `jit`            | XLA           | eager, replays    |
| ... `run_eagerly`     | `disable_jit`    | eager         | eager             |

The last row is for debugging. After `compile(run_eagerly=True)`, a rollout runs
in Python, row by row and operation by operation, so that `print` and
`breakpoint` see values. The tokens are the same, except that TensorFlow draws
different random numbers without XLA.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_skd._backend.eager import is_eager

if keras.config.backend() == "jax":
    from keras_skd._backend import jax as backend
elif keras.config.backend() == "tensorflow":
    from keras_skd._backend import tensorflow as backend
elif keras.config.backend() == "torch":
    from keras_skd._backend import torch as backend
else:
    raise ImportError(
        "keras_skd trains with the 'jax', 'tensorflow' and 'torch' backends of "
        f"Keras. Received: KERAS_BACKEND={keras.config.backend()!r}"
    )

RolloutTrainer = backend.RolloutTrainer
# Whether the keys of each layer, and its values, are tensors of their own in a
# cached pass, where a model of KerasHub has one for all: `unstacked_cache.py`.
unstacks_caches: bool = backend.unstacks_caches

# A tensor of the backend, and a nested structure of them.
Tensor = Any
Nested = Any

_in_micro_batch: ContextVar[bool] = ContextVar("in_micro_batch", default=False)


def vmap_rows(function: Callable[[Nested], Nested], elements: Nested) -> Nested:
    """`keras.ops.vectorized_map` for functions that run a KerasHub model.

    Args:
        function: callable that maps one row's slices of `elements`.
        elements: nested structure of tensors with equal first dimension.

    Returns:
        The outputs of `function`, stacked along a new first dimension.
    """
    if is_eager():
        rows = zip(*map(ops.unstack, tree.flatten(elements)))
        rows = [tree.pack_sequence_as(elements, row) for row in rows]
        return tree.map_structure(
            lambda *results: ops.stack(results), *map(function, rows)
        )

    def map_rows(elements, largest):
        with backend.vmap_scope():
            return ops.vectorized_map(function, elements), ()

    return on_each_device(map_rows, elements)[0]


def on_each_device(
    function: Callable[[Nested, Callable], tuple[Nested, Nested]], rows: Nested
) -> tuple[Nested, Nested]:
    """Runs a function on the rows of each device.

    On JAX, a program is written for all rows of the batch, and XLA decides what
    each device of a `keras.distribution` computes. It may gather the rows of
    all devices: where an operation goes across them, such as a sort, or where a
    weight is cut along the same axis of the mesh as the rows. Here it may not.
    The other engines give a device no more than its own rows.

    Args:
        function: callable from the rows of a device and `largest` to `(results,
            sums)`: results with a first dimension of those rows, and what is
            summed over the devices. `largest(x)` is the maximum of `x` over the
            devices, for loops to have as many rounds on each.
        rows: nested structure of tensors with equal first dimension.

    Returns:
        `(results, sums)` of all rows.
    """
    return backend.on_each_device(function, rows)


def attention_scope() -> contextlib.AbstractContextManager:
    """A context in which query heads of a group share their keys and values.

    For forward passes with a cache. Layers of KerasHub repeat them otherwise.
    """
    return backend.attention_scope()


def replay(
    function: Callable[..., Nested],
    variables: Callable[[], list[keras.Variable]],
    donate_argnum: int | None = None,
) -> Callable[..., Nested]:
    """Returns a faster version of `function`, without Keras' Python code.

    PyTorch traces `function` once for each shape of its arguments, and replays
    the graph: for a small model, most of a step is spent in Python. A function
    that cannot be traced is called as it is, with a warning. JAX and TensorFlow
    compile the loop around it, so there `function` itself is returned.

    Args:
        function: callable from nested structures of tensors to nested
            structures of tensors, without side effects. No gradient flows
            through it.
        variables: callable that returns the `keras.Variable`s that it reads.
        donate_argnum: int. The index of an argument that is not used after a
            call, so that the results may be written to its memory. Defaults to
            `None`.
    """
    return backend.replay(function, variables, donate_argnum)


def value_and_gradients(
    function: Callable[..., Tensor],
    arguments: Sequence[Tensor],
    totals: Sequence[Tensor] = (),
    has_aux: bool = False,
) -> tuple[Any, list[Tensor]]:
    """A scalar function's value and its gradient in each argument.

    Args:
        function: callable from the arguments to a scalar tensor.
        arguments: list of float tensors.
        totals: list of tensors, to which the gradients in the last arguments
            are added. They are donated: PyTorch adds in place, since a large
            tensor takes longer to allocate than to add to.
        has_aux: bool. Whether the function returns a pair, of the scalar and a
            nested structure of tensors without gradients.

    Returns:
        `(value, gradients)`, what the function returns, and a list of tensors:
        the last are the new totals.
    """
    if not has_aux:
        (value, _), gradients = value_and_gradients(
            lambda *args: (function(*args), ()), arguments, totals, has_aux=True
        )
        return value, gradients
    return backend.value_and_gradients(function, list(arguments), list(totals))


def scale_in_place(x: Tensor, factor: Tensor) -> Tensor:
    """`x * factor`, for an `x` that is donated.

    PyTorch scales it in place and takes its memory: `x` is empty afterwards.
    """
    return backend.scale_in_place(x, factor)


def is_first_process() -> bool:
    """Whether this process prints and writes files, where there are several."""
    return backend.is_first_process()


def sum_over_replicas(x: Nested) -> Nested:
    """The sums of tensors over the replicas that share a batch.

    Under a `tf.distribute.Strategy`, and in the processes of `torchrun`, each
    replica computes the loss of its own rows, and the gradients are added up:
    the denominator of a mean over the batch is such a sum. No gradient flows
    through it. JAX computes on the whole batch, however it is sharded, so there
    it is `x`, as it is in an `own_micro_batch()`.
    """
    return x if _in_micro_batch.get() else backend.sum_over_replicas(x)


@contextlib.contextmanager
def own_micro_batch():
    """A context for a part of a replica's rows.

    Other replicas may have more or fewer parts: none can wait for the others.
    """
    token = _in_micro_batch.set(True)
    try:
        yield
    finally:
        _in_micro_batch.reset(token)


def rows_of_batch(num_rows) -> tuple:
    """The place of this replica's rows in the batch.

    Args:
        num_rows: int or int scalar, the number of rows of this replica.

    Returns:
        `(num_rows, first)`: the number of rows of the whole batch, and the
        index of the first that is here.
    """
    return backend.rows_of_batch(num_rows)


def global_random_state() -> list[np.ndarray]:
    """The random state outside of Keras' `SeedGenerator`s.

    On PyTorch, dropout without a seed draws from PyTorch's own generators.
    """
    return backend.global_random_state()


def set_global_random_state(states: list[np.ndarray]):
    """Restores the state that `global_random_state` returned, if not empty."""
    backend.set_global_random_state(states)
