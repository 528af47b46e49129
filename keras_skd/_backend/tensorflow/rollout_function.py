import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.tensorflow import replicas
from keras_skd._seeding import is_seed


class RolloutFunction:
    """Runs a rollout, compiled by XLA.

    In a step under a `tf.distribute.Strategy`, each replica calls it on its own
    rows. Outside of one, such as in `generate`, the rows are divided among the
    replicas.

    Args:
        trainer: the `RolloutTrainer`.
        rollout: a `keras_skd.rollouts.Rollout`.

    Call arguments:
        x: dict of tensors, a batch.

    Returns:
        dict of tensors, the written batch.
    """

    def __init__(self, trainer, rollout):
        self._trainer = trainer
        self._rollout = rollout
        self._states = rollout.variables
        shared = set(map(id, rollout.batch_seeds))
        self._differs = [
            is_seed(v) and id(v) not in shared for v in self._states
        ]
        # Always by XLA, even where Keras leaves its own step to the graph
        # executor (on a CPU): that is many times slower at a loop of small
        # steps, and oneDNN was seen to corrupt memory in it.
        self._compiled = tf.function(
            self._write, jit_compile=True, autograph=False
        )
        self._compiled_as_needed = trainer._short_first(self._compiled, rollout)
        self._run_on_replicas = tf.function(
            lambda *args: trainer.distribute_strategy.run(
                self._run_on_replica, args
            ),
            autograph=False,
        )

    def __call__(self, x):
        strategy = self._trainer.distribute_strategy
        values = [v[...] for v in self._states]
        if strategy.num_replicas_in_sync == 1:
            written, values = self._run(x, values)
        elif replicas.in_replica_of(strategy):
            rows = None
            if self._rollout.batch_seeds:
                rows = replicas.gather_rows(tf.shape(x["token_ids"])[0])
            written, values = self._run(x, values, rows)
        else:
            written, values = self._divide(strategy, x, values)
        for variable, value in zip(self._states, values):
            variable.assign(value)
        return written

    def _divide(self, strategy, x, values):
        """Writes rows outside of a step. Each worker writes the same."""
        num_replicas = len(strategy.extended.worker_devices)
        num_rows = x["token_ids"].shape[0]
        size = -(-num_rows // num_replicas)

        def part(context):
            first = context.replica_id_in_sync_group % num_replicas * size
            index = np.arange(first, first + size) % num_rows
            return (
                {key: tf.gather(value, index) for key, value in x.items()},
                (tf.constant(size * num_replicas), tf.constant(first)),
            )

        x, rows = strategy.experimental_distribute_values_from_function(part)
        written, values = self._run_on_replicas(x, values, rows)
        local = strategy.experimental_local_results
        written = {
            key: tf.concat(local(value), axis=0)[:num_rows]
            for key, value in written.items()
        }
        return written, [local(value)[0] for value in values]

    def _run_on_replica(self, x, values, rows):
        """Runs with random numbers that no other replica draws."""
        before = [
            replicas.own_seed(v, rows[1]) if differs else v
            for v, differs in zip(values, self._differs)
        ]
        written, after = self._run(x, before, rows)
        return written, [
            replicas.next_seed(v) if differs else state
            for v, state, differs in zip(values, after, self._differs)
        ]

    def _run(self, x, values, rows=None):
        """Runs the rollout, on at least two rows if their number is unknown.

        TensorFlow converts a cache update to a loop over the rows, which XLA
        fails to compile for a single row of GPT-2. A replica may have no rows.
        """
        num_rows = x["token_ids"].shape[0]
        if not num_rows:
            num_rows = tf.shape(x["token_ids"])[0]
            x = _with_two_rows(x, num_rows)
        if self._trainer.run_eagerly:
            with eager_scope(True):
                written, values = self._write(x, None, values, rows)
        elif tf.executing_eagerly():
            written, values = self._compiled_as_needed(x, values, rows)
        else:
            written, values = self._compiled(x, None, values, rows)
        return {k: v[:num_rows] for k, v in written.items()}, values

    def _write(self, x, short_caches, values, rows):
        """A function of the values of the states, which returns new ones."""
        scope = keras.StatelessScope(zip(self._states, values))
        short_caches = short_caches or contextlib.nullcontext()
        with scope, replicas.rows_scope(rows), short_caches:
            written = self._trainer.write(x, self._rollout)
        return written, [scope.get_current_value(v) for v in self._states]


def _with_two_rows(x, num_rows):
    """Adds full rows, in which nothing is written, up to two."""
    padding = [[0, tf.maximum(2 - num_rows, 0)], [0, 0]]
    return {
        key: tf.pad(
            value,
            padding,
            constant_values=tf.cast("padding" in key, value.dtype),
        )
        for key, value in x.items()
    }
