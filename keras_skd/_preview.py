"""Previews of rollouts, which do not affect the training."""

import contextlib
import random

import numpy as np
from keras import ops

from keras_skd._seeding import derive_seed
from keras_skd.rollouts._rollout import ROLLOUT_KEYS

_KEYS = (*ROLLOUT_KEYS, "teacher_ranks", "teacher_probabilities")


def in_batches(function, x, batch_size, keys) -> dict:
    """Runs a function on a few rows at a time.

    Args:
        function: callable from a batch to a written rollout.
        x: dict of NumPy arrays with any number of rows.
        batch_size: int.
        keys: the outputs to return, where there are such.

    Returns:
        dict of NumPy arrays.
    """
    num_rows = len(x["token_ids"])
    # Powers of two, since each size of a batch is compiled.
    batch_size = min(batch_size, 2 ** (num_rows - 1).bit_length())
    parts = []
    for start in range(0, num_rows, batch_size):
        rows = np.arange(start, start + batch_size) % num_rows
        batch = {k: ops.convert_to_tensor(v[rows]) for k, v in x.items()}
        parts.append(function(batch))
    return {
        key: np.concatenate([ops.convert_to_numpy(p[key]) for p in parts])[
            :num_rows
        ]
        for key in keys
        if key in parts[0]
    }


class Preview:
    """Runs a rollout with its own random numbers.

    Args:
        rollout: a `keras_skd.rollouts.Rollout`.
        seed: int or `None`.

    Call arguments:
        function: callable from a batch to a written rollout.
        x: dict of NumPy arrays with any number of rows.
        batch_size: int.

    Returns:
        dict of NumPy arrays.
    """

    def __init__(self, rollout, seed):
        self._rollout = rollout
        self._seed = random.getrandbits(31) if seed is None else seed
        self.state = None

    def __call__(self, function, x, batch_size):
        with self._own_state():
            return in_batches(function, x, batch_size, _KEYS)

    @contextlib.contextmanager
    def _own_state(self):
        variables = self._rollout.variables
        training_state = _values(variables)
        try:
            if self.state is None:
                self._rollout.set_seed(derive_seed(self._seed, "preview"))
            else:
                _assign(variables, self.state)
            yield
            self.state = _values(variables)
        finally:
            _assign(variables, training_state)


def _values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)
