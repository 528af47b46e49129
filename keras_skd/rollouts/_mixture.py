import keras
from keras import ops

from keras_skd.decoding import derive_seed
from keras_skd.rollouts._rollout import Rollout
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class Mixture(Rollout):
    """Draws a rollout for each row: some rows from here, some from there.

    Args:
        rollouts: dict from rollouts, or their names, to weights: positive
            numbers, or schedules, that need not sum to 1.
        seed: int. Defaults to `None`, the Distiller's.

    Example:

    ImitKD, and GKD with lambda = 0.5: half of the rows are the data's, half
    the student's.

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
        # A module of rollouts cannot import its own registry at its top.
        from keras_skd.rollouts._serialization import get

        # Pairs, too: a config of a rollout cannot be a key.
        pairs = rollouts
        if isinstance(rollouts, dict):
            pairs = list(rollouts.items())
        if not isinstance(pairs, (list, tuple)) or not pairs:
            raise TypeError(
                "`rollouts` must be a dict from rollouts to weights, such as "
                '{"supervised": 0.5, "on_policy": 0.5}. Received: '
                f"{rollouts!r}"
            )
        self.rollouts = [get(rollout) for rollout, _ in pairs]
        self.weights = [
            schedules.check(
                "rollouts", weight, lambda x: x >= 0, "weights of at least 0"
            )
            for _, weight in pairs
        ]
        if not any(callable(w) or w > 0 for w in self.weights):
            raise ValueError(
                "`rollouts` must have a weight above 0. Received: "
                f"{self.weights}"
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def needs_responses(self):
        return any(rollout.needs_responses for rollout in self.rollouts)

    @property
    def tests_drafts(self):
        return any(rollout.tests_drafts for rollout in self.rollouts)

    @property
    def variables(self):
        variables = [v for r in self.rollouts for v in r.variables]
        return [*variables, self.seed_generator.state]

    def set_seed(self, seed):
        if self.seed is None:
            self.seed_generator = keras.random.SeedGenerator(
                derive_seed(seed, "rows")
            )
        for i, rollout in enumerate(self.rollouts):
            rollout.set_seed(derive_seed(seed, i))

    def choose(self, batch_size, training_step):
        """The rollout of each row, an int32 tensor of shape `(batch,)`."""
        weights = ops.stack(
            [
                ops.cast(schedules.value_at(w, training_step), "float32")
                for w in self.weights
            ]
        )
        logits = ops.where(
            weights > 0, ops.log(ops.maximum(weights, 1e-30)), -1e30
        )
        return keras.random.categorical(
            logits[None], batch_size, dtype="int32", seed=self.seed_generator
        )[0]

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        batch_size = batch["token_ids"].shape[0]
        choice = self.choose(
            ops.shape(batch["token_ids"])[0]
            if batch_size is None
            else batch_size,
            training_step,
        )
        written = {}
        for i, rollout in enumerate(self.rollouts):
            mine = (choice == i)[:, None]
            part = rollout(
                _only_rows(batch, mine),
                student,
                teacher,
                stop_token_ids,
                training_step,
            )
            if self.tests_drafts:
                part.setdefault("tested", ops.zeros_like(mine))
            # Of what else a rollout knows, such as the teacher's hidden
            # states, there is nothing for the rows of the others.
            for key in _KEYS:
                if key in part:
                    rest = written.get(key, ops.zeros_like(part[key]))
                    written[key] = ops.where(mine, part[key], rest)
        return written

    def get_config(self):
        return {
            "rollouts": [
                (
                    keras.saving.serialize_keras_object(rollout),
                    schedules.serialize(weight),
                )
                for rollout, weight in zip(self.rollouts, self.weights)
            ],
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


_KEYS = "token_ids", "padding_mask", "response_mask", "sources", "tested"


def _only_rows(batch, mine):
    """Fills the other rows up, so that a rollout has nothing to write there."""
    batch = dict(batch)
    batch["padding_mask"] = ops.cast(batch["padding_mask"], "bool") | ~mine
    if "response_mask" in batch:
        response = ops.cast(batch["response_mask"], "bool")
        batch["response_mask"] = response & mine
    return batch
