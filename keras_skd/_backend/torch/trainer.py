import torch

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.torch.replay import frozen_weights


class RolloutTrainer:
    """Keras' PyTorch train step, on what a rollout writes."""

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
        @torch.no_grad()
        def rollout_function(x):
            with eager_scope(self.run_eagerly), frozen_weights():
                return self.write(x, rollout)

        return rollout_function
