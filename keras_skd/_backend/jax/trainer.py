import contextlib
import functools

import jax
import keras
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from keras_skd._backend.eager import eager_scope
from keras_skd._backend.jax.rollout_function import RolloutFunction
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

    `fit` and `evaluate` run the rollout before the step, compiled by itself:
    the longest row then says which columns the step need not read. A step of a
    batch that is not written yet writes it.
    """

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 0.4

    def skip(self, state, iterator):
        take(iterator, self.steps_per_execution)
        with keras.StatelessScope(zip(self.metrics_variables, state[3])):
            return self.without_kl(self.get_metrics_result()), state

    def _make_function(self, step_function, concatenate_outputs=False):
        if concatenate_outputs:  # Of `predict`.
            return super()._make_function(step_function, concatenate_outputs)

        # Looking for the variables of large models takes time.
        groups = functools.cache(lambda: self._variables)
        of_rollout = functools.cache(lambda: self.rollout_function.variables)

        def write_and_step(state, data):
            batch = self.batch_of(data)
            is_training = len(state) == len(_GROUPS)
            if is_training or not self.has_responses(batch):
                batch, state = self._run_rollout(
                    batch, state, groups(), of_rollout()
                )
            for part in self._parts(batch, is_training):
                logs, state = step_function(state, (part,))
            return logs, state

        return super()._make_function(write_and_step)

    def _run_rollout(self, batch, state, groups, of_rollout):
        """Runs the rollout with the values of a state, and changes them."""
        values = {}
        for variables, group in zip(groups, (state[0], state[1], state[-1])):
            values |= {id(v): value for v, value in zip(variables, group)}
        batch, states = self.rollout_function.run(
            batch, [values[id(v)] for v in of_rollout]
        )
        changed = zip(self.rollout.variables, states)
        values |= {id(v): value for v, value in changed}
        non_trainable = [values[id(v)] for v in groups[1]]
        return batch, (state[0], non_trainable, *state[2:])

    @property
    def _variables(self):
        """Three lists of variables. Keras has them in other groups."""
        return (
            self.trainable_variables,
            self.non_trainable_variables,
            self.metrics_variables,
        )

    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        rollout, non_trainable, metrics = self._stateless(
            lambda: self._written_and_measured(self.batch_of(data)),
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
                else self._written_and_measured(batch)
            ),
            *state,
        )
        state = state[0], non_trainable, metrics
        logs, state = super().test_step(state, (rollout,))
        if has_responses:
            logs = self.without_rollout_metrics(logs)
        return logs, state

    def _written_and_measured(self, batch):
        if not self._is_written(batch):
            with self.eager_scope():
                batch = self.write(batch, self.rollout)
        self.measure(batch)
        return batch

    @contextlib.contextmanager
    def eager_scope(self):
        # Without JIT, loops run in Python, too.
        eagerly = self.run_eagerly
        with eager_scope(eagerly), jax.disable_jit(eagerly):
            yield

    def _stateless(self, function, trainable, non_trainable, metrics):
        groups, values = self._variables, (trainable, non_trainable, metrics)
        mapping = [
            pair for group in zip(groups, values) for pair in zip(*group)
        ]
        with keras.StatelessScope(mapping) as scope:
            result = function()
        return result, *(
            [scope.get_current_value(v) for v in group] for group in groups[1:]
        )

    def _symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            # Keras', which needs batches that the devices divide evenly.
            iterator._get_distributed_iterator = functools.partial(
                _distributed, iterator.data_adapter
            )
        super()._symbolic_build(iterator, data_batch)

    def is_distributed(self):
        distribution = keras.distribution.distribution()
        return (
            distribution is not None
            and distribution.device_mesh.devices.size > 1
        )

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
        return RolloutFunction(self, rollout)


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
