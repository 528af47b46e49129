import tensorflow as tf

from keras_skd._backend.eager import eager_scope


class RolloutTrainer:
    """Keras' TensorFlow train step, on what a rollout wrote."""

    def train_step(self, data):
        x = self.training_batch(data, self.rollout_function)
        return super().train_step((x,))

    def test_step(self, data):
        x = self.test_batch(data, self.rollout_function)
        return self.test_logs(super().test_step((x,)), data)

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
