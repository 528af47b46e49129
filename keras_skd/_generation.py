"""Generation of the teacher's text, with the student as its drafter."""

import collections
import json

import keras
import numpy as np

from keras_skd._source import Source
from keras_skd.acceptance import Lossless
from keras_skd.decoding._sampling import get_sampler
from keras_skd.rollouts import Speculative

# The number of compiled functions that are kept.
_NUM_KEPT = 8


class LosslessSpeculative(Speculative):
    """Lossless speculative decoding: text distributed as the teacher's.

    Unlike in distillation, the teacher adds a bonus token where all drafts are
    accepted, without another pass.
    """

    _bonus = True

    def __init__(self, sampler, stop_token_ids):
        super().__init__(
            acceptance=Lossless(),
            student_sampler=sampler,
            teacher_sampler=sampler,
        )
        self.stop_token_ids = stop_token_ids

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        return super().call(batch, student, teacher, self.stop_token_ids)


class Generator:
    """Generates token ids, compiled once for each sampler and stop tokens.

    Args:
        make_function: callable from a rollout to a function that runs it on a
            batch.
        seed: int or `None`.

    Call arguments:
        batch: dict of `"token_ids"` and `"padding_mask"`, the prompts.
        sampler: a `keras_hub.samplers.Sampler` or its name.
        stop_token_ids: tuple of ints.

    Returns:
        dict of the rollout.
    """

    def __init__(self, make_function, seed):
        self._make_function = make_function
        self._seed = seed
        self._functions = collections.OrderedDict()

    def __call__(self, batch, sampler, stop_token_ids):
        sampler = get_sampler(sampler, "sampler")
        key = _key(sampler), stop_token_ids
        if key not in self._functions:
            rollout = LosslessSpeculative(sampler, stop_token_ids)
            if self._seed is not None:
                rollout.set_seed(self._seed)
            # Keeps the sampler alive, since the key may be its `id`.
            self._functions[key] = self._make_function(rollout), sampler
        self._functions.move_to_end(key)
        if len(self._functions) > _NUM_KEPT:
            self._functions.popitem(last=False)
        function, _ = self._functions[key]
        return function(batch)


def _key(sampler):
    """A key that samplers of equal configs share."""
    serialized = keras.saving.serialize_keras_object(sampler)
    try:
        return json.dumps(serialized, sort_keys=True)
    except TypeError:
        return id(sampler)


def check_finite(rollout: dict):
    """Checks that the teacher has not diverged.

    Args:
        rollout: dict of NumPy arrays, from a `Generator`.

    Raises:
        ValueError: if the teacher's hidden states are NaN.
    """
    states = rollout.get("teacher_hidden_states")
    # The logits at a position predict the next token.
    predicts = rollout["response_mask"][:, 1:]
    if states is not None and np.isnan(states[:, :-1][predicts]).any():
        raise ValueError(
            "The teacher has diverged: its hidden states are NaN. Check its "
            "weights, and if its dtype is float16, use bfloat16, which does "
            "not overflow."
        )


def statistics(rollout: dict) -> dict:
    """Returns the statistics of speculative decoding.

    Args:
        rollout: dict of NumPy arrays, from a `Generator`.

    Returns:
        dict of floats: `"acceptance_rate"` (accepted over tested drafts) and
        `"tokens_per_teacher_call"` (per row).
    """
    num_accepted = (rollout["sources"] == Source.STUDENT).sum()
    num_written = rollout["response_mask"].sum()
    return {
        "acceptance_rate": float(num_accepted / rollout["num_tested"].sum()),
        "tokens_per_teacher_call": float(
            num_written / rollout["num_teacher_calls"].sum()
        ),
    }
