"""The base class of rollouts, and their registry."""

import keras

from keras_skd._registry import Configurable
from keras_skd._registry import Registry
from keras_skd._seeding import derive_seed
from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding._sampling import reseed_sampler

# What every rollout writes, and the mask that a speculative one adds.
ROLLOUT_KEYS = (
    "token_ids",
    "padding_mask",
    "response_mask",
    "sources",
    "draft_mask",
)


class Rollout(Configurable):
    """Base class of rollouts, which write the text the student is trained on.

    The rollout is the only thing that differs between supervised,
    sequence-level, on-policy and speculative knowledge distillation. Subclasses
    implement `call`.

    Attributes:
        needs_responses: bool. Whether the data must have `"responses"`.
        needs_teacher: bool. Whether `call` uses the teacher, which is `None`
            in fine-tuning.
        is_speculative: bool. Whether there is an acceptance rate to report.
    """

    needs_responses = False
    needs_teacher = True
    is_speculative = False

    @property
    def _longest_draft(self) -> int:
        """The most tokens in a draft, 0 where no tokens are drafted."""
        return 0

    def call(
        self,
        batch: dict,
        student: CachedCausalLM,
        teacher: CachedCausalLM | None,
        stop_token_ids: tuple[int, ...] = (),
        training_step: keras.KerasTensor | int = 0,
    ) -> dict:
        """Writes one batch of sequences.

        Args:
            batch: dict of `"token_ids"`, `"padding_mask"` and, where the data
                has responses, `"response_mask"`: tensors of shape
                `(batch, sequence_length)`, right-padded.
            student, teacher: the two models, ready for cached decoding.
            stop_token_ids: tuple of ints, the tokens that end a response.
            training_step: int tensor, the number of batches trained on, for
                schedules.

        Returns:
            dict of tensors of shape `(batch, sequence_length)`: `"token_ids"`,
            `"padding_mask"`, `"response_mask"` and `"sources"` (the
            `keras_skd.Source` of each token). A speculative rollout adds
            `"draft_mask"`, true where a draft was tested, whether accepted or
            replaced. If the teacher has read every token, its
            `"teacher_hidden_states"`, of shape
            `(batch, sequence_length, hidden_dim)`, save a second pass.
        """
        raise NotImplementedError

    def __call__(
        self, batch, student, teacher, stop_token_ids=(), training_step=0
    ):
        written = self.call(
            batch, student, teacher, stop_token_ids or (), training_step
        )
        # Keeps the teacher's own prompts, if there are any.
        return {**batch, **written}

    def samplers(self) -> dict:
        """The samplers of the rollout, by attribute name."""
        return {}

    @property
    def variables(self) -> list:
        """The state of the random seeds, carried from step to step."""
        samplers = self.samplers().values()
        return [v for sampler in samplers for v in sampler.variables]

    @property
    def batch_seeds(self) -> list:
        """Those of `variables` that draw once for the rows of all replicas.

        The other seeds differ between the replicas of a `tf.distribute`
        strategy, and between the processes of `torchrun`.
        """
        return []

    def set_seed(self, seed: int):
        """Reseeds every sampler that was not given a seed.

        The state variables are assigned, not replaced, since the compiled
        functions of each `Distiller` that uses this rollout hold them.
        """
        for name, sampler in self.samplers().items():
            reseed_sampler(sampler, derive_seed(seed, name))

    def get_config(self) -> dict:
        return {
            name: keras.saving.serialize_keras_object(sampler)
            for name, sampler in self.samplers().items()
        }


_ROLLOUTS = Registry(Rollout, argument="rollout", module="keras_skd.rollouts")
_ROLLOUTS.register()(Rollout)


def get(identifier: str | dict | type | Rollout) -> Rollout:
    """Returns a rollout from its name, class, config or itself.

    Example:

    >>> keras_skd.rollouts.get("on_policy").student_sampler.temperature
    1.0
    """
    return _ROLLOUTS.get(identifier)


def serialize(rollout: Rollout) -> dict:
    """Returns the config of a rollout, which JSON can hold."""
    return _ROLLOUTS.serialize(rollout)


def deserialize(config: dict, custom_objects: dict | None = None) -> Rollout:
    """Returns the rollout that a config describes.

    Args:
        config: dict, as `serialize()` returns it.
        custom_objects: dict from names to classes that are not registered with
            Keras. Defaults to `None`.
    """
    return _ROLLOUTS.deserialize(config, custom_objects)
