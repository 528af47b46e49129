import itertools


class StatefulTrainer:
    """A rollout, then Keras' train step, where variables hold the state.

    A subclass adds `make_rollout_function` and `skip_batches`.
    """

    def make_train_function(self, force=False):
        made = self.train_function
        super().make_train_function(force)
        self.num_skipped = 0
        if self.train_function is made:
            return
        train = self.train_function

        def train_or_skip(data):
            if not self.num_skipped:
                return train(data)
            self.skip_batches(data)
            return self.without_kl(self.get_metrics_result())

        self.train_function = train_or_skip

    def train_step(self, data):
        rollout = self.rollout_function(self.batch_of(data))
        self.measure(rollout)
        logs = super().train_step((rollout,))
        self.training_step.assign_add(1)
        return self.without_kl(logs)

    def test_step(self, data):
        batch = self.batch_of(data)
        if self.has_responses(batch):
            logs = super().test_step((self.take_responses(batch),))
            return self.without_rollout_metrics(logs)
        rollout = self.rollout_function(batch)
        self.measure(rollout)
        return super().test_step((rollout,))

    def sync_state(self):
        """Nothing to do: see the JAX trainer."""


def take(iterator, count):
    """Takes up to `count` elements.

    Raises:
        StopIteration: if there is none.
    """
    next(iterator)
    for _ in itertools.islice(iterator, count - 1):
        pass
