import contextlib

import jax
import keras


class RolloutFunction:
    """Runs a rollout, compiled by XLA.

    Args:
        trainer: the `RolloutTrainer`.
        rollout: a `keras_skd.rollouts.Rollout`.

    Call arguments:
        batch: dict of tensors.

    Returns:
        dict of tensors, the written batch.
    """

    def __init__(self, trainer, rollout):
        self._trainer = trainer
        self._rollout = rollout
        self._states = rollout.variables
        shardings = None
        if keras.distribution.distribution() is not None:
            shardings = None, [v.value.sharding for v in self._states]
        compiled = jax.jit(
            self._write, static_argnums=1, out_shardings=shardings
        )
        self._run = trainer._short_first(compiled, rollout)

    @property
    def variables(self):
        """The variables of which a call needs the values."""
        return [*self._trainer.variables, *self._states]

    def __call__(self, batch):
        self._trainer.sync_state()
        written, values = self.run(batch, [v.value for v in self.variables])
        for variable, value in zip(self._states, values):
            variable.assign(value)
        return written

    def run(self, batch, values):
        """Runs with values of `variables`, and returns new ones of `states`."""
        with self._trainer.eager_scope():
            return self._run(batch, values)

    def _write(self, batch, short_caches, values):
        scope = keras.StatelessScope(zip(self.variables, values))
        with scope, short_caches or contextlib.nullcontext():
            written = self._trainer.write(batch, self._rollout)
        return written, [scope.get_current_value(v) for v in self._states]
