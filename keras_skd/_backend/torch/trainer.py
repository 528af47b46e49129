import torch

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.stateful_trainer import StatefulTrainer
from keras_skd._backend.torch import distribution
from keras_skd._backend.torch.operations import global_random_state
from keras_skd._backend.torch.operations import set_global_random_state
from keras_skd._backend.torch.replay import frozen_weights


class RolloutTrainer(StatefulTrainer):
    """The train step with rollouts for PyTorch."""

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 0.5

    def _symbolic_build(self, *args, **kwargs):
        # Keras builds metrics in the first `fit` with a forward pass, whose
        # dropout draws random numbers. A loaded training must not draw again.
        states = global_random_state()
        super()._symbolic_build(*args, **kwargs)
        set_global_random_state(states)

    def make_rollout_function(self, rollout):
        @torch.no_grad()
        def rollout_function(x):
            with eager_scope(self.run_eagerly), frozen_weights():
                return self.write(x, rollout)

        return rollout_function

    def make_train_function(self, force=False):
        made = self.train_function
        super().make_train_function(force)
        if self.train_function is made or not distribution.is_distributed():
            return
        self._copy_from_first()
        gradients = distribution.LossOfAll.of(self.trainable_variables)
        # Not the module, which Keras would track.
        self._loss_of_all = gradients.__call__

    def make_test_function(self, force=False):
        made = self.test_function
        super().make_test_function(force)
        if self.test_function is not made and distribution.is_distributed():
            self._copy_from_first()

    def _copy_from_first(self):
        optimizer = self.optimizer.variables if self.optimizer else []
        distribution.copy_from_first(
            [*self.variables, *optimizer, *self.rollout.variables]
        )

    def train_step(self, data):
        return self._on_own_rows(super().train_step, data)

    def test_step(self, data):
        return self._on_own_rows(super().test_step, data)

    def _on_own_rows(self, step, data):
        if not distribution.is_distributed():
            return step(data)
        with (
            distribution.own_rows_of(self.batch_of(data)) as batch,
            distribution.changes_of_all(self.metrics_variables),
        ):
            logs = step((batch,))
        distribution.agree(self.rollout.variables)
        result = self.get_metrics_result()
        return {name: result[name] for name in logs}

    def _compute_loss(self, *args, training=True, **kwargs):
        loss = super()._compute_loss(*args, training=training, **kwargs)
        if training and distribution.is_distributed():
            return self._loss_of_all(loss)
        return loss
