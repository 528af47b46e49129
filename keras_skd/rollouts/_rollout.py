import keras

from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding import derive_seed
from keras_skd.decoding import with_seed


class Rollout:
    """Writes the sequences that the student is trained on.

    A rollout is the only thing that differs between supervised, sequence-level,
    on-policy and speculative knowledge distillation. Subclasses implement
    `call`.

    Attributes:
        needs_responses: bool. Whether the data has to come with `"responses"`.
        tests_drafts: bool. Whether there is an acceptance rate to report.
    """

    needs_responses = False
    tests_drafts = False

    def call(
        self,
        batch: dict,
        student: CachedCausalLM,
        teacher: CachedCausalLM,
        stop_token_ids: tuple[int, ...] = (),
        training_step: keras.KerasTensor | int = 0,
    ) -> dict:
        """Writes one batch of sequences.

        Args:
            batch: dict of `"token_ids"`, `"padding_mask"` and, where the data
                holds responses, `"response_mask"`: tensors of shape
                `(batch, sequence_length)`, right-padded.
            student, teacher: the two models, ready for cached decoding.
            stop_token_ids: tuple of ints, the tokens that end a response.
            training_step: int tensor, how many batches were trained on, for
                schedules.

        Returns:
            dict of tensors of shape `(batch, sequence_length)`: `"token_ids"`,
            `"padding_mask"`, `"response_mask"` and `"sources"` (padding 0,
            prompt 1, student 2, teacher 3, data 4). If it tests drafts, also
            `"tested"`, whether a token is a tested draft or what replaced it;
            and, if the teacher has read it all, `"teacher_hidden_states"`, of
            shape `(batch, sequence_length, hidden_dim)`.
        """
        raise NotImplementedError

    def __call__(
        self, batch, student, teacher, stop_token_ids=(), training_step=0
    ):
        return self.call(
            batch, student, teacher, stop_token_ids or (), training_step
        )

    def samplers(self) -> dict:
        """The samplers that it draws with, by attribute name."""
        return {}

    @property
    def variables(self) -> list:
        """The state of its random seeds, carried from step to step."""
        samplers = self.samplers().values()
        return [v for sampler in samplers for v in sampler.variables]

    def set_seed(self, seed: int):
        """Seeds every sampler that was not given a seed of its own."""
        for name, sampler in self.samplers().items():
            setattr(self, name, with_seed(sampler, derive_seed(seed, name)))

    def get_config(self):
        return {
            name: keras.saving.serialize_keras_object(sampler)
            for name, sampler in self.samplers().items()
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)
