"""Rollouts made of other rollouts."""

import keras
from keras import ops

from keras_skd._backend import rows_of_batch
from keras_skd._checks import check_integer
from keras_skd._log_space import safe_log
from keras_skd._seeding import derive_seed
from keras_skd._seeding import reseed
from keras_skd.decoding._records import DRAFT_POSITIONS
from keras_skd.decoding._records import REJECTED_RANKS
from keras_skd.rollouts._rollout import _ROLLOUTS
from keras_skd.rollouts._rollout import ROLLOUT_KEYS
from keras_skd.rollouts._rollout import Rollout
from keras_skd.rollouts._rollout import get
from keras_skd.rollouts._rollout import serialize
from keras_skd.schedules._values import check_value
from keras_skd.schedules._values import serialize_value
from keras_skd.schedules._values import value_at

_KEYS = (*ROLLOUT_KEYS, DRAFT_POSITIONS, REJECTED_RANKS)
# Of shape `(batch,)`.
_ROW_KEYS = ("num_teacher_calls",)


class _Choice(Rollout):
    """Chooses one of several rollouts for each row. Implement `choose`."""

    def __init__(self, rollouts):
        self._rollouts = [get(rollout) for rollout in rollouts]

    @property
    def needs_responses(self):
        return any(rollout.needs_responses for rollout in self._rollouts)

    @property
    def needs_teacher(self):
        return any(rollout.needs_teacher for rollout in self._rollouts)

    @property
    def is_speculative(self):
        return any(rollout.is_speculative for rollout in self._rollouts)

    @property
    def _longest_draft(self):
        return max(rollout._longest_draft for rollout in self._rollouts)

    @property
    def variables(self) -> list:
        return [v for rollout in self._rollouts for v in rollout.variables]

    @property
    def batch_seeds(self) -> list:
        return [v for rollout in self._rollouts for v in rollout.batch_seeds]

    def set_seed(self, seed: int):
        for i, rollout in enumerate(self._rollouts):
            rollout.set_seed(derive_seed(seed, i))

    def choose(self, batch_size, training_step):
        """The rollout of each row, an int32 tensor of shape `(batch,)`."""
        raise NotImplementedError

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        batch_size = batch["token_ids"].shape[0]
        if batch_size is None:
            batch_size = ops.shape(batch["token_ids"])[0]
        choice = self.choose(batch_size, training_step)
        written = {}
        for i, rollout in enumerate(self._rollouts):
            chosen = (choice == i)[:, None]
            part = rollout(
                _only_rows(batch, chosen),
                student,
                teacher,
                stop_token_ids,
                training_step,
            )
            if self.is_speculative:
                part.setdefault("draft_mask", ops.zeros_like(chosen))
            # Other outputs, such as the teacher's hidden states, exist only
            # for some of the rows, and are dropped.
            for key in (*_KEYS, *_ROW_KEYS):
                if key in part:
                    rest = written.get(key, ops.zeros_like(part[key]))
                    rows = chosen[:, 0] if key in _ROW_KEYS else chosen
                    written[key] = ops.where(rows, part[key], rest)
        return written


@_ROLLOUTS.register("mixture")
class Mixture(_Choice):
    """Draws a rollout for each row of a batch.

    Args:
        rollouts: dict from rollouts, or their names, to weights: positive
            numbers, or schedules, that need not sum to 1.
        seed: int. Defaults to `None`, the Distiller's.

    Example:

    ImitKD, and GKD with lambda = 0.5: half of the responses are from the data,
    half from the student.

    ```python
    rollout = keras_skd.rollouts.Mixture({"supervised": 0.5, "on_policy": 0.5})
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    distiller.fit({"prompts": prompts, "responses": responses})
    ```

    References:

    - [Lin et al., 2020](https://arxiv.org/abs/2009.07253)
    - [Agarwal et al., 2023](https://arxiv.org/abs/2306.13649), Algorithm 1.
    """

    def __init__(self, rollouts: dict, seed: int | None = None):
        # A config has pairs: a rollout's config cannot be the key of a dict.
        pairs = rollouts
        if isinstance(rollouts, dict):
            pairs = list(rollouts.items())
        if not isinstance(pairs, (list, tuple)) or not pairs:
            raise TypeError(
                "`rollouts` must be a dict from rollouts to weights, such as "
                '{"supervised": 0.5, "on_policy": 0.5}. Received: '
                f"{rollouts!r}"
            )
        super().__init__([rollout for rollout, _ in pairs])
        self.weights = [
            check_value(f"rollouts[{i}]", weight, "[0, inf)")
            for i, (_, weight) in enumerate(pairs)
        ]
        if not any(callable(w) or w > 0 for w in self.weights):
            raise ValueError(
                "`rollouts` must have a weight above 0. Received: "
                f"{self.weights}"
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def rollouts(self) -> dict:
        """A dict from the rollouts to their weights."""
        return dict(zip(self._rollouts, self.weights))

    @property
    def variables(self) -> list:
        return [*super().variables, self.seed_generator.state]

    @property
    def batch_seeds(self) -> list:
        return [*super().batch_seeds, self.seed_generator.state]

    def set_seed(self, seed: int):
        super().set_seed(seed)
        if self.seed is None:
            reseed(self.seed_generator, derive_seed(seed, "rows"))

    def choose(self, batch_size, training_step):
        weights = ops.stack(
            [
                ops.cast(value_at(weight, training_step), "float32")
                for weight in self.weights
            ]
        )
        num_rows, first = rows_of_batch(batch_size)
        choice = keras.random.categorical(
            safe_log(weights)[None],
            num_rows,
            dtype="int32",
            seed=self.seed_generator,
        )[0]
        # Where `floatx` has 16 bits, Keras chooses int16, for which there is no
        # `range` in TensorFlow's XLA.
        rows = ops.arange(batch_size, dtype="int32")
        return ops.take(choice, (first + rows) % num_rows)

    def get_config(self) -> dict:
        return {
            "rollouts": [
                (serialize(rollout), serialize_value(weight))
                for rollout, weight in zip(self._rollouts, self.weights)
            ],
            "seed": self.seed,
        }


@_ROLLOUTS.register("switch")
class Switch(_Choice):
    """One rollout at first, then a different one: two-stage distillation.

    Args:
        first: a rollout or its name.
        then: a rollout or its name.
        at_step: int. The first batch, counted from 0, of `then`.

    Example:

    ```python
    rollout = keras_skd.rollouts.Switch("supervised", "on_policy", at_step=500)
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    distiller.fit({"prompts": prompts, "responses": responses})
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), section 5.5.
    """

    def __init__(self, first, then, at_step: int):
        super().__init__([first, then])
        self.first, self.then = self._rollouts
        self.at_step = check_integer("at_step", at_step, minimum=0)

    def choose(self, batch_size, training_step):
        then = ops.cast(training_step >= self.at_step, "int32")
        return ops.broadcast_to(then, (batch_size,))

    def get_config(self) -> dict:
        return {
            "first": serialize(self.first),
            "then": serialize(self.then),
            "at_step": self.at_step,
        }


def _only_rows(batch, chosen):
    """Marks the other rows as full, so that a rollout writes nothing there."""
    batch = dict(batch)
    batch["padding_mask"] = ops.cast(batch["padding_mask"], "bool") | ~chosen
    if "response_mask" in batch:
        response = ops.cast(batch["response_mask"], "bool")
        batch["response_mask"] = response & chosen
    return batch
