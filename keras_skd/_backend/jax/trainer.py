import contextlib
import functools

import jax
import keras
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.skipping import SkippingTrainer
from keras_skd._backend.skipping import take

_GROUPS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


class RolloutTrainer(SkippingTrainer):
    """A rollout, then Keras' JAX train step.

    On JAX, state is passed in and returned. Everything outside of Keras' own
    step runs in a `StatelessScope`, and its updates (random seeds, metrics, the
    step) are part of the returned state.
    """

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 0.4
    compiles_all_lengths = True  # Of caches, see `cache_stages`.

    def skip(self, state, iterator):
        take(iterator, self.steps_per_execution)
        with keras.StatelessScope(zip(self.metrics_variables, state[3])):
            return self.without_kl(self.get_metrics_result()), state

    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        rollout, non_trainable, metrics = self._stateless(
            lambda: self._write_and_measure(data),
            *(trainable, non_trainable, metrics),
        )
        state = trainable, non_trainable, optimizer, metrics
        logs, state = super().train_step(state, (rollout,))
        trainable, non_trainable, optimizer, metrics = state
        _, non_trainable, metrics = self._stateless(
            lambda: self.training_step.assign_add(1),
            *(trainable, non_trainable, metrics),
        )
        state = trainable, non_trainable, optimizer, metrics
        return self.without_kl(logs), state

    def test_step(self, state, data):
        batch = self.batch_of(data)
        has_responses = self.has_responses(batch)
        rollout, non_trainable, metrics = self._stateless(
            lambda: (
                self.take_responses(batch)
                if has_responses
                else self._write_and_measure(data)
            ),
            *state,
        )
        state = state[0], non_trainable, metrics
        logs, state = super().test_step(state, (rollout,))
        if has_responses:
            logs = self.without_rollout_metrics(logs)
        return logs, state

    def _write_and_measure(self, data):
        with self._eager_scope():
            rollout = self.write(self.batch_of(data), self.rollout)
        self.measure(rollout)
        return rollout

    @contextlib.contextmanager
    def _eager_scope(self):
        # Without JIT, loops run in Python, too.
        eagerly = self.run_eagerly
        with eager_scope(eagerly), jax.disable_jit(eagerly):
            yield

    def _stateless(self, function, trainable, non_trainable, metrics):
        groups = self.non_trainable_variables, self.metrics_variables
        mapping = [
            *zip(self.trainable_variables, trainable),
            *zip(groups[0], non_trainable),
            *zip(groups[1], metrics),
        ]
        with keras.StatelessScope(mapping) as scope:
            result = function()
        return result, *(
            [scope.get_current_value(v) for v in group] for group in groups
        )

    def _symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            # Keras', which needs batches that the devices divide evenly.
            iterator._get_distributed_iterator = functools.partial(
                _distributed, iterator.data_adapter
            )
        super()._symbolic_build(iterator, data_batch)

    def sync_state(self):
        """Writes the state of Keras' training loop to the variables."""
        self.jax_state_sync()

    def _get_jax_state(self, **groups):
        # Keras takes the values out of the variables, and stores them in
        # `_jax_state` only after the step. If that fails, `sync_state` finds
        # them here.
        state = super()._get_jax_state(**groups)
        names = [name for name in _GROUPS if groups.get(name)]
        self._jax_state = dict(zip(names, state))
        return state

    def make_rollout_function(self, rollout):
        states = rollout.variables

        @jax.jit
        def rollout_function(values, batch):
            variables = [*self.variables, *states]
            with keras.StatelessScope(zip(variables, values)) as scope:
                written = self.write(batch, rollout)
            return written, [scope.get_current_value(v) for v in states]

        def call(batch):
            self.sync_state()
            variables = [*self.variables, *states]
            values = [v.value for v in variables]
            with self._eager_scope():
                written, values = rollout_function(values, batch)
            for variable, value in zip(states, values):
                variable.assign(value)
            return written

        return call


def _distributed(data_adapter, distribution):
    """Yields batches with the rows on several devices.

    Every device gets all rows of a batch that they do not divide evenly, and
    pads them in the step: token ids are small.
    """
    for batch in data_adapter.get_jax_iterator():
        yield jax.tree.map(functools.partial(_distribute, distribution), batch)


def _distribute(distribution, rows):
    layout = distribution.get_data_layout(rows.shape).backend_layout
    num_rows = rows.shape[0] * jax.process_count()
    num_shards = layout.mesh.shape[distribution.batch_dim_name]
    if num_rows % num_shards == 0 or jax.process_count() > 1:
        return jax.make_array_from_process_local_data(layout, rows)
    return jax.device_put(rows, NamedSharding(layout.mesh, PartitionSpec()))
