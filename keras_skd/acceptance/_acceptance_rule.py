"""The base classes of acceptance rules, and their registry."""

import keras

from keras_skd._registry import Configurable
from keras_skd._registry import Registry
from keras_skd._seeding import derive_seed
from keras_skd._seeding import reseed


class AcceptanceRule(Configurable):
    """Base class of all acceptance rules. It is not subclassed directly.

    A rule that looks at the teacher alone is a
    `keras_skd.acceptance.TeacherRule`, one that compares two distributions a
    `keras_skd.acceptance.DistributionRule`.
    """

    @property
    def variables(self) -> list:
        """The state of the random seeds."""
        return []

    def set_seed(self, seed: int):
        """Reseeds the rule, unless it was given a seed or draws nothing."""


_RULES = Registry(
    AcceptanceRule, argument="acceptance", module="keras_skd.acceptance"
)
_RULES.register()(AcceptanceRule)


@_RULES.register()
class TeacherRule(AcceptanceRule):
    """Base class of rules that look at the teacher's logits alone.

    They see the teacher's raw logits, before temperature, top-k or top-p of
    any sampler. The teacher's sampler draws the token that replaces a rejected
    one. Subclasses implement `accept`.

    Example:

    ```python
    class Likely(keras_skd.acceptance.TeacherRule):
        def accept(self, token_ids, teacher_logits, training_step=0):
            probabilities = keras.ops.softmax(teacher_logits)
            at_token = keras.ops.take_along_axis(
                probabilities, token_ids[..., None], axis=-1
            )
            return at_token[..., 0] > 0.1

    rollout = keras_skd.rollouts.Speculative(acceptance=Likely())
    ```
    """

    def accept(
        self,
        token_ids: keras.KerasTensor,
        teacher_logits: keras.KerasTensor,
        training_step: keras.KerasTensor | int = 0,
    ) -> keras.KerasTensor:
        """Decides which drafted tokens are accepted.

        Args:
            token_ids: int32 tensor of shape `(...,)`, the drafted tokens.
            teacher_logits: float tensor of shape `(..., vocabulary_size)`, the
                teacher's raw logits at the position of each of them.
            training_step: int tensor, the number of batches trained on.

        Returns:
            bool tensor of shape `(...,)`.
        """
        raise NotImplementedError


@_RULES.register()
class DistributionRule(AcceptanceRule):
    """Base class of rules that compare the two models' distributions.

    They see the log-probabilities that the samplers of teacher and student
    draw from, and draw the replacements of rejected tokens themselves.
    Subclasses implement `accept` and `sample_replacement`. Both samplers must
    be greedy, random, top-k or top-p.

    Args:
        seed: int. Defaults to `None`, the Distiller's.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        # Not the stream of a sampler with the same seed: acceptance must not
        # correlate with the token that was drafted.
        self.seed_generator = keras.random.SeedGenerator(
            seed if seed is None else derive_seed(seed, "acceptance")
        )

    @property
    def variables(self) -> list:
        return [self.seed_generator.state]

    def set_seed(self, seed: int):
        if self.seed is None:
            reseed(self.seed_generator, derive_seed(seed, "acceptance"))

    def accept(
        self,
        token_ids: keras.KerasTensor,
        teacher_log_probs: keras.KerasTensor,
        student_log_probs: keras.KerasTensor,
        training_step: keras.KerasTensor | int = 0,
    ) -> keras.KerasTensor:
        """Decides which drafted tokens are accepted.

        Args:
            token_ids: int32 tensor of shape `(...,)`, the drafted tokens.
            teacher_log_probs: float32 tensor of shape `(..., vocabulary_size)`,
                `-1e30` for a token that the teacher's sampler cannot draw.
            student_log_probs: the student's, likewise.
            training_step: int tensor, the number of batches trained on.

        Returns:
            bool tensor of shape `(...,)`.
        """
        raise NotImplementedError

    def sample_replacement(
        self,
        teacher_log_probs: keras.KerasTensor,
        student_log_probs: keras.KerasTensor,
        training_step: keras.KerasTensor | int = 0,
    ) -> keras.KerasTensor:
        """Draws the replacement of a rejected token.

        Args:
            teacher_log_probs: float32 tensor of shape
                `(batch, vocabulary_size)`.
            student_log_probs: the student's, likewise; `-1e30` for all tokens
                where none was drafted.
            training_step: int tensor, the number of batches trained on.

        Returns:
            int32 tensor of shape `(batch,)`.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        return {"seed": self.seed}


def get(identifier: str | dict | type | AcceptanceRule) -> AcceptanceRule:
    """Returns an acceptance rule from its name, class, config or itself.

    Example:

    >>> keras_skd.acceptance.get("top_k")
    TopK()
    """
    return _RULES.get(identifier)


def serialize(rule: AcceptanceRule) -> dict:
    """Returns the config of an acceptance rule, which JSON can hold."""
    return _RULES.serialize(rule)


def deserialize(
    config: dict, custom_objects: dict | None = None
) -> AcceptanceRule:
    """Returns the acceptance rule that a config describes.

    Args:
        config: dict, as `serialize()` returns it.
        custom_objects: dict from names to classes that are not registered with
            Keras. Defaults to `None`.
    """
    return _RULES.deserialize(config, custom_objects)
