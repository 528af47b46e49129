import tensorflow as tf

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.skipping import take
from keras_skd._backend.stateful_trainer import StatefulTrainer


class RolloutTrainer(StatefulTrainer):
    """The train step with rollouts for TensorFlow."""

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 1.6

    def make_train_function(self, force=False):
        # TensorFlow traces and compiles a function twice if it makes variables.
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        super().make_train_function(force)

    def skip(self, iterator):
        take(iterator, self.steps_per_execution)
        return super().skip(iterator)

    def train_step(self, data):
        # Without the dependency, the step would be counted once more when the
        # iterator has ended, since counting does not need the data.
        with tf.control_dependencies([*self.batch_of(data).values()]):
            return super().train_step(data)

    def _make_function(self, step_function):
        """Makes Keras' step function, separately for each sequence length.

        A rollout must know the length when it is traced, but Keras traces
        batches of different lengths once, with an unknown length.
        """
        make = super()._make_function
        of_one_length, by_length = make(step_function), {}

        def function(iterator):
            if None not in _lengths(getattr(iterator, "element_spec", ())):
                return of_one_length(iterator)
            outputs = None
            for _ in range(self.steps_per_execution):
                data = next(iterator, None)
                if data is None:
                    break
                batch = tf.data.Dataset.from_tensors(data)
                lengths = _lengths(batch.element_spec)
                if lengths not in by_length:
                    by_length[lengths] = make(step_function)
                outputs = by_length[lengths](iter(batch))
            if outputs is None:
                raise StopIteration
            return outputs

        return function

    def make_rollout_function(self, rollout):
        # Always by XLA, even where Keras leaves its own step to the graph
        # executor (on a CPU): that is many times slower at a loop of small
        # steps, and oneDNN was seen to corrupt memory in it.
        compiled = tf.function(
            lambda x: self._write_two_rows(x, rollout),
            jit_compile=True,
            autograph=False,
        )

        def rollout_function(x):
            if not self.run_eagerly:
                return compiled(x)
            with eager_scope(True):
                return self.write(x, rollout)

        return rollout_function

    def _write_two_rows(self, x, rollout):
        """Writes at least two rows, if their number is unknown when tracing.

        TensorFlow converts a cache update to a loop over the rows, which XLA
        fails to compile for a single row of GPT-2.
        """
        if None not in [value.shape[0] for value in x.values()]:
            return self.write(x, rollout)
        rows = tf.shape(x["token_ids"])[0]
        index = tf.range(tf.maximum(rows, 2)) % rows
        x = {key: tf.gather(value, index) for key, value in x.items()}
        return tf.nest.map_structure(
            lambda value: value[:rows], self.write(x, rollout)
        )


def _lengths(element_spec):
    """The number of columns of each tensor of a batch, `None` if unknown."""
    specs = tf.nest.flatten(element_spec)
    return tuple(spec.shape[1] for spec in specs if spec.shape.rank == 2)
