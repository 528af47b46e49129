import contextlib

import jax

row_map_scope = contextlib.nullcontext


def replayed(function, variables, donated=None):
    return function


def value_and_gradients(function, arguments):
    return jax.value_and_grad(lambda args: function(*args))(arguments)


def accumulate(total, more):
    return total + more
