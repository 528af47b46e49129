import tensorflow as tf

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.stateful_trainer import StatefulTrainer


class RolloutTrainer(StatefulTrainer):
    """The train step, with rollouts for TensorFlow."""

    def make_rollout_function(self, rollout):
        # Always by XLA, also where Keras leaves its own step to the graph
        # executor (on a CPU): that takes many times as long for a loop of
        # small steps, and oneDNN was seen to corrupt memory in it.
        compiled = tf.function(
            lambda x: self.write(x, rollout),
            jit_compile=True,
            autograph=False,
        )

<<<<<<< HEAD
        def rollout_function(x):
            if not self.run_eagerly:
                return compiled(x)
            with eager_scope(True):
                return self.write(x, rollout)

        return rollout_function
=======

def _lengths(element_spec):
    """The number of columns of each tensor of a batch, `None` if not known."""
    specs = tf.nest.flatten(element_spec)
    return tuple(spec.shape[1] for spec in specs if spec.shape.rank == 2)
>>>>>>> data
