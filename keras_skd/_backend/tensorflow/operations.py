import contextlib

import tensorflow as tf

from keras_skd._backend.eager import is_eager
from keras_skd._backend.grouped_attention import grouped_attention

unstacks_caches = True


def attention_scope():
    if tf.config.list_logical_devices("GPU") or is_eager():
        return contextlib.nullcontext()
    return grouped_attention()


@contextlib.contextmanager
def vmap_scope():
    # Filters out a warning at each cache update: TensorFlow converts it to a
    # loop over the rows, which XLA compiles to something cheap.
    def is_relevant(record):
        return "Using a while_loop for converting" not in record.getMessage()

    tf.get_logger().addFilter(is_relevant)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(is_relevant)


def on_each_device(function, rows):
    return function(rows, lambda x: x)


def replay(function, variables, donate_argnum=None):
    return function


def value_and_gradients(function, arguments, totals):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(arguments)
        value, aux = function(*arguments)
    gradients = tape.gradient(
        value,
        arguments,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # The gradient of an embedding is sparse.
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    first = len(gradients) - len(totals)
    sums = [t + tf.cast(g, t.dtype) for t, g in zip(totals, gradients[first:])]
    return (value, aux), [*gradients[:first], *sums]


def scale_in_place(x, factor):
    return x * factor


def global_random_state():
    return []


def set_global_random_state(states):
    pass
