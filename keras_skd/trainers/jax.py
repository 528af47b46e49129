import jax
import keras


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
            x = make_batch(data, self.write)
        return x, *(
            [scope.get_current_value(v) for v in group] for group in variables
        )

    def make_rollout_function(self):
        @jax.jit
        def rollout_function(variables, x):
            mapping = zip(self.variables, variables)
            with keras.StatelessScope(mapping) as scope:
                x = self.write(x)
            states = self.rollout.variables
            return x, [scope.get_current_value(v) for v in states]

        def call(x):
            # During `fit`, the values are with the trainer.
            self.jax_state_sync()
            x, states = rollout_function([v.value for v in self.variables], x)
            for variable, value in zip(self.rollout.variables, states):
                variable.assign(value)
            return x

        return call
