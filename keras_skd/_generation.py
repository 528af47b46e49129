"""Text of the teacher, with the student as its drafter."""

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

    Unlike in distillation, the teacher adds a token of its own where all drafts
    are accepted: one more token for the same number of teacher passes.
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
    """Generates token ids, compiled once for each sampler and set of stops.

    Args:
        make_function: callable from a rollout to a function of a batch that
            runs it.
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
            # The sampler stays: a key may be its identity.
            self._functions[key] = self._make_function(rollout), sampler
        self._functions.move_to_end(key)
        if len(self._functions) > _NUM_KEPT:
            self._functions.popitem(last=False)
        function, _ = self._functions[key]
        return function(batch)


def _key(sampler):
    """What samplers that draw alike have in common."""
    serialized = keras.saving.serialize_keras_object(sampler)
    try:
        return json.dumps(serialized, sort_keys=True)
    except TypeError:
        return id(sampler)


def check_finite(rollout: dict):
    """Refuses text of a teacher that has diverged.

    Args:
        rollout: dict of NumPy arrays, from a `Generator`.

    Raises:
        ValueError: if the teacher's hidden states are not numbers.
    """
    states = rollout.get("teacher_hidden_states")
    # The logits at a position predict the next token.
    predicts = rollout["response_mask"][:, 1:]
    if states is not None and np.isnan(states[:, :-1][predicts]).any():
        raise ValueError(
            "The teacher has diverged: its hidden states are not numbers, and "
            "no text can be drawn from them. Check its weights, and in float16 "
            "its dtype: bfloat16 does not overflow."
        )


def statistics(rollout: dict) -> dict:
    """How well the student drafted.

    Args:
        rollout: dict of NumPy arrays, from a `Generator`.

    Returns:
        dict of floats: `"acceptance_rate"` (accepted over tested drafts) and
        `"tokens_per_teacher_call"` (for one row).
    """
    num_accepted = (rollout["sources"] == Source.STUDENT).sum()
    num_written = rollout["response_mask"].sum()
    return {
        "acceptance_rate": float(num_accepted / rollout["num_tested"].sum()),
        "tokens_per_teacher_call": float(
            num_written / rollout["num_teacher_calls"].sum()
        ),
    }
