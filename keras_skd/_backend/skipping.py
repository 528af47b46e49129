"""Skips batches that a resumed training has trained on before."""

import itertools


class SkippingTrainer:
    """Keras' train function, which can skip the next calls.

    A subclass adds `skip`, which takes the arguments of the train function and
    returns what it returns.

    Attributes:
        num_skipped: int. How many of the next calls skip their batches. `fit`
            starts with 0.
    """

    def _build_optimizer(self):
        """Creates the variables of the optimizer, before they are loaded."""
        if self.compiled and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        made = self.train_function
        super().make_train_function(force)
        self.num_skipped = 0
        if self.train_function is made:
            return
        train = self.train_function

        def train_or_skip(*args):
            if not self.num_skipped:
                return train(*args)
            self.num_skipped -= 1
            return self.skip(*args)

        self.train_function = train_or_skip


def take(iterator, count):
    """Takes up to `count` elements.

    Raises:
        StopIteration: if there is none.
    """
    next(iterator)
    for _ in itertools.islice(iterator, count - 1):
        pass
