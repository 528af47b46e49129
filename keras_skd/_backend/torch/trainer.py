import torch
from keras import tree

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.stateful_trainer import StatefulTrainer
from keras_skd._backend.torch import distribution
from keras_skd._backend.torch.adam import fuse
from keras_skd._backend.torch.operations import global_random_state
from keras_skd._backend.torch.operations import set_global_random_state
from keras_skd._backend.torch.replay import frozen_weights


class RolloutTrainer(StatefulTrainer):
    """The train step with rollouts for PyTorch."""

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 0.4

    def compile(self, optimizer="adam", **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        fuse(self.optimizer)

    def _symbolic_build(self, *args, **kwargs):
        # Keras builds metrics in the first `fit` with a forward pass, whose
        # dropout draws random numbers. A loaded training must not draw again.
        states = global_random_state()
        super()._symbolic_build(*args, **kwargs)
        set_global_random_state(states)

    def is_distributed(self):
        return distribution.is_distributed()

    def make_rollout_function(self, rollout):
        @torch.no_grad()
        def rollout_function(x):
            with eager_scope(self.run_eagerly), frozen_weights():
                return self.write(x, rollout)

        return rollout_function

    def fit(self, *args, verbose="auto", callbacks=None, **kwargs):
        if not distribution.is_first_process():
            verbose = 0
            callbacks = distribution.callbacks_of_others(callbacks, self)
        if distribution.is_distributed():
            callbacks = tree.flatten(callbacks or [])
            callbacks.append(distribution.FirstDecides())
        return super().fit(
            *args, verbose=verbose, callbacks=callbacks, **kwargs
        )

    def evaluate(self, *args, verbose="auto", **kwargs):
        if not distribution.is_first_process():
            verbose = 0
        return super().evaluate(*args, verbose=verbose, **kwargs)

    def make_train_function(self, force=False):
        self._copy_from_first()
        made = self.train_function
        super().make_train_function(force)
        if self.train_function is not made and distribution.is_distributed():
            self._sum_of_losses = distribution.sum_of_losses(
                self.trainable_variables
            )

    def make_test_function(self, force=False):
        self._copy_from_first()
        super().make_test_function(force)

    def _copy_from_first(self):
        """Lets all processes start equal, once for each `compile`."""
        is_new = self.train_function is None and self.test_function is None
        if is_new and distribution.is_distributed():
            distribution.copy_from_first(
                [*self.variables, *self.optimizer.variables]
            )

    def train_step(self, data):
        return self._on_own_rows(super().train_step, data, True)

    def test_step(self, data):
        return self._on_own_rows(super().test_step, data, False)

    def _on_own_rows(self, step, data, is_training):
        """A step of one process, or of all, each on its rows."""
        batch = self.batch_of(data)
        if not distribution.is_distributed():
            for part in self.write_parts(batch, is_training):
                logs = step((part,))
            return logs
        of_rollout = self.rollout.variables
        with (
            distribution.own_rows(batch) as batch,
            distribution.own_seeds(self.seeds_of_replica()),
            distribution.changes_of_all(self.metrics_variables),
        ):
            (part,) = self.write_parts(batch, is_training)
            logs = step((part,))
        # How often drafts are accepted: the seeds are the same by now.
        distribution.average([v for v in of_rollout if "float" in v.dtype])
        result = self.get_metrics_result()
        return {name: result[name] for name in logs}

    def _compute_loss(self, *args, training=True, **kwargs):
        loss = super()._compute_loss(*args, training=training, **kwargs)
        if training and distribution.is_distributed():
            return self._sum_of_losses(loss)
        return loss

    def _aggregate_additional_loss(self, loss):
        # Equal in all processes, whose losses are summed.
        return distribution.share(super()._aggregate_additional_loss(loss))
