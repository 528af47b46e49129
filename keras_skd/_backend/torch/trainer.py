import torch

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.stateful_trainer import StatefulTrainer
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
