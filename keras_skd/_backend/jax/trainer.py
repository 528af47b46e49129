import jax
import keras

from keras_skd._backend.eager import eager_scope


class RolloutTrainer:
    """Keras' JAX train step, on what a rollout wrote.

    Here all state is handed in and out: the rollout runs in a
    `StatelessScope`, and the new state of its random seeds and of its metrics
    goes on with the rest.
    """

    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        x, non_trainable, metrics = self._stateless(
            self.training_batch, trainable, non_trainable, metrics, data
        )
        state = trainable, non_trainable, optimizer, metrics
        return super().train_step(state, (x,))

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        x, non_trainable, metrics = self._stateless(
            self.test_batch, trainable, non_trainable, metrics, data
        )
        state = trainable, non_trainable, metrics
        logs, state = super().test_step(state, (x,))
        return self.test_logs(logs, data), state

    def _stateless(self, make_batch, trainable, non_trainable, metrics, data):
        variables = self.non_trainable_variables, self.metrics_variables
        mapping = [
            *zip(self.trainable_variables, trainable),
            *zip(variables[0], non_trainable),
            *zip(variables[1], metrics),
        ]
        with keras.StatelessScope(mapping) as scope:
            x = make_batch(data, lambda x: self.write(x, self.rollout))
        return x, *(
            [scope.get_current_value(v) for v in group] for group in variables
        )

    def make_rollout_function(self, rollout):
        states = rollout.variables

        @jax.jit
        def rollout_function(values, x):
            variables = [*self.variables, *states]
            with keras.StatelessScope(zip(variables, values)) as scope:
                x = self.write(x, rollout)
            return x, [scope.get_current_value(v) for v in states]

        def call(x):
            # During `fit`, the values are with the trainer.
            self.jax_state_sync()
            variables = [*self.variables, *states]
            eagerly = self.run_eagerly
            with eager_scope(eagerly), jax.disable_jit(eagerly):
                x, values = rollout_function([v.value for v in variables], x)
            for variable, value in zip(states, values):
                variable.assign(value)
            return x

        return call
