import tensorflow as tf

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.stateful_trainer import StatefulTrainer


class RolloutTrainer(StatefulTrainer):
    """The train step, with rollouts for TensorFlow."""

    def train_step(self, data):
        # Nothing is counted after the last batch: an operation that needs no
        # data would run before the iterator is found to have come to its end.
        with tf.control_dependencies([*self.batch_of(data).values()]):
            return super().train_step(data)

    def _make_function(self, step_function):
        """Keras' function of a step, and one for each length of the rows.

        A rollout must know the length when it is traced. Keras traces batches
        of different lengths once for all, without it.
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
        # Always by XLA, also where Keras leaves its own step to the graph
        # executor (on a CPU): that takes many times as long for a loop of
        # small steps, and oneDNN was seen to corrupt memory in it.
        compiled = tf.function(
            lambda x: self.write(x, rollout),
            jit_compile=True,
            autograph=False,
        )

        def rollout_function(x):
            if not self.run_eagerly:
                return compiled(x)
            with eager_scope(True):
                return self.write(x, rollout)

        return rollout_function


def _lengths(element_spec):
    """The number of columns of each tensor of a batch, `None` if not known."""
    specs = tf.nest.flatten(element_spec)
    return tuple(spec.shape[1] for spec in specs if spec.shape.rank == 2)
