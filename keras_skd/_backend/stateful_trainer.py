import itertools

from keras_skd._backend.skipping import SkippingTrainer
from keras_skd._seeding import is_seed


class StatefulTrainer(SkippingTrainer):
    """A rollout, then Keras' train step, where variables hold the state.

    A subclass adds `make_rollout_function`.
    """

    def skip(self, data):
        return self.without_kl(self.get_metrics_result())

    def write_parts(self, batch, is_training):
        """Writes the responses of a batch, and returns its parts."""
        if is_training or not self.has_responses(batch):
            batch = self.rollout_function(batch)
        return self._parts(batch, is_training)

    def train_step(self, data):
        rollout = self._written_and_measured(self.batch_of(data))
        logs = super().train_step((rollout,))
        self.training_step.assign_add(1)
        return self.without_kl(logs)

    def test_step(self, data):
        batch = self.batch_of(data)
        if self.has_responses(batch):
            logs = super().test_step((self.take_responses(batch),))
            return self.without_rollout_metrics(logs)
        return super().test_step((self._written_and_measured(batch),))

    def _written_and_measured(self, batch):
        if not self._is_written(batch):
            batch = self.rollout_function(batch)
        self.measure(batch)
        return batch

    def seeds_of_replica(self):
        """The states of the seeds that differ between replicas."""
        of_batch = set(map(id, self.rollout.batch_seeds))
        variables = self.rollout.variables, self.student.non_trainable_variables
        return [
            v
            for v in itertools.chain(*variables)
            if is_seed(v) and id(v) not in of_batch
        ]

    def sync_state(self):
        """Nothing to do: see the JAX trainer."""
