import contextlib

import jax

vmap_scope = contextlib.nullcontext


def replay(function, variables, donate_argnum=None):
    return function


def value_and_gradients(function, arguments, totals):
    value, gradients = jax.value_and_grad(lambda args: function(*args))(
        arguments
    )
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
