import tensorflow as tf

from keras_skd._backend.eager import eager_scope


class RolloutTrainer:
    """Keras' TensorFlow train step, on what a rollout writes."""

    def train_step(self, data):
        rollout = self.rollout_function(self.batch_of(data))
        self.measure(rollout)
        logs = super().train_step((rollout,))
        self.training_step.assign_add(1)
        return logs

    def test_step(self, data):
        batch = self.batch_of(data)
        if self.has_responses(batch):
            logs = super().test_step((self.take_responses(batch),))
            return self.without_rollout_metrics(logs)
        rollout = self.rollout_function(batch)
        self.measure(rollout)
        return super().test_step((rollout,))

    def sync_state(self):
        """Nothing to do: the variables hold the state."""

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
