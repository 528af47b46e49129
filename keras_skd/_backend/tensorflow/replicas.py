"""What the replicas of a `tf.distribute.Strategy` share."""

import contextlib
from contextvars import ContextVar

import tensorflow as tf

# Set while a rollout is traced, which cannot communicate once it is compiled.
_rows: ContextVar = ContextVar("rows", default=None)


def is_first_process():
    # TensorFlow calls it the chief.
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    has_chief = "chief" in resolver.cluster_spec().jobs
    return (
        resolver.task_type in (None, "", "chief" if has_chief else "worker")
        and not resolver.task_id
    )


def sum_over_replicas(x):
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    x = tf.nest.map_structure(tf.stop_gradient, x)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def rows_of_batch(num_rows):
    return _rows.get() or (num_rows, 0)


@contextlib.contextmanager
def rows_scope(rows):
    """Sets what `rows_of_batch` returns, unless it is `None`."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def gather_rows(num_rows):
    """The number of rows of all replicas, and of those before this one."""
    context = tf.distribute.get_replica_context()
    rows = context.all_gather(tf.reshape(num_rows, (1,)), axis=0)
    before = rows[: context.replica_id_in_sync_group]
    return tf.reduce_sum(rows), tf.reduce_sum(before)


def in_replica_of(strategy):
    """Whether this is called in a step, as opposed to outside of it."""
    return (
        tf.distribute.get_strategy() is strategy
        and not tf.distribute.in_cross_replica_context()
    )


@contextlib.contextmanager
def own_seeds(variables):
    """Lets each replica draw different random numbers.

    Afterwards, the states of the generators are equal again, so that a
    checkpoint has them all.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    before = [v[...] for v in variables]
    for variable, seed in zip(variables, before):
        variable.assign(own_seed(seed, replica))
    yield
    for variable, seed in zip(variables, before):
        variable.assign(next_seed(seed))


def own_seed(seed, replica):
    """The state of a `SeedGenerator`, different in each replica."""
    seed = tf.random.experimental.stateless_fold_in(seed, replica)
    # `SeedGenerator` counts from here: consecutive replicas would draw the same
    # numbers, one draw later.
    return tf.random.stateless_uniform(
        (2,), seed, minval=None, maxval=None, dtype=tf.int64
    )


def next_seed(seed):
    """The state after a rollout, which is the same in each replica."""
    return seed + tf.constant([0, 1], seed.dtype)


def average(variables):
    context = tf.distribute.get_replica_context()
    for variable in variables:
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, variable[...])
        variable.assign(mean)
