import contextlib

import jax
import jax.numpy as jnp
import keras
from jax.sharding import PartitionSpec

from keras_skd._backend.eager import is_eager
from keras_skd._backend.grouped_attention import grouped_attention

unstacks_caches = True
vmap_scope = contextlib.nullcontext


def attention_scope():
    if jax.default_backend() == "cpu" and not is_eager():
        return grouped_attention()
    return contextlib.nullcontext()


def on_each_device(function, rows):
    distribution = keras.distribution.distribution()
    if distribution is None or is_eager():
        return function(rows, lambda x: x)
    mesh = distribution.device_mesh.backend_mesh
    axis = distribution.batch_dim_name
    if mesh.shape[axis] == 1:
        return function(rows, lambda x: x)
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    padding = -num_rows % mesh.shape[axis]

    def pad(x):
        # With zeros, which is also the mask of a row without a response.
        return jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))

    def on_this_device(rows):
        results, sums = function(rows, lambda x: jax.lax.pmax(x, axis))
        return results, jax.lax.psum(sums, axis)

    # Other axes, along which weights may be cut, remain XLA's.
    results, sums = jax.shard_map(
        on_this_device,
        mesh=mesh,
        in_specs=PartitionSpec(axis),
        out_specs=(PartitionSpec(axis), PartitionSpec()),
        axis_names={axis},
        # Otherwise, the gradients of weights were summed in each chunk of the
        # loss, and not once after the last.
        check_vma=False,
    )(jax.tree.map(pad, rows) if padding else rows)
    return jax.tree.map(lambda x: x[:num_rows], results), sums


def replay(function, variables, donate_argnum=None):
    return function


def value_and_gradients(function, arguments, totals):
    value, gradients = jax.value_and_grad(
        lambda args: function(*args), has_aux=True
    )(arguments)
    first = len(gradients) - len(totals)
    sums = [t + g.astype(t.dtype) for t, g in zip(totals, gradients[first:])]
    return value, [*gradients[:first], *sums]


def scale_in_place(x, factor):
    return x * factor


def is_first_process():
    return True


def sum_over_replicas(x):
    return x


def rows_of_batch(num_rows):
    return num_rows, 0


def global_random_state():
    return []


def set_global_random_state(states):
    pass
