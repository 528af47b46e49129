import torch

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.torch.replay import frozen_weights


class RolloutTrainer:
    """Keras' PyTorch train step, on what a rollout wrote."""

    def train_step(self, data):
        x = self.training_batch(data, self.rollout_function)
        return super().train_step((x,))

    def test_step(self, data):
        x = self.test_batch(data, self.rollout_function)
        return self.test_logs(super().test_step((x,)), data)

    def make_rollout_function(self, rollout):
        @torch.no_grad()
        def rollout_function(x):
            with eager_scope(self.run_eagerly), frozen_weights():
                return self.write(x, rollout)

        return rollout_function
