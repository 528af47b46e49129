"""The student's own text, to be scored."""

from keras_skd._checks import check_integer
from keras_skd._preview import Preview
from keras_skd.decoding._sampling import get_sampler
from keras_skd.rollouts import OnPolicy


class StudentText:
    """Generates with the student of a distiller, batch by batch.

    It uses its own random numbers, and decodes with a cache, each row at its
    own position. It is compiled once for each `Distiller.compile`.

    Args:
        sampler: a `keras_hub.samplers.Sampler` or its name.
        batch_size: int.
        seed: int or `None`.

    Call arguments:
        distiller: a `keras_skd.Distiller` with a preprocessor.
        batch: dict of NumPy arrays, packed prompts.

    Returns:
        List of strings, the responses.
    """

    def __init__(self, sampler, batch_size, seed):
        self.rollout = OnPolicy(get_sampler(sampler, "sampler"))
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self._preview = Preview(self.rollout, seed)
        self._function = self._compiled_for = None

    def __call__(self, distiller, batch):
        # `Distiller.compile` replaces it: the student may have changed.
        compiled_for = distiller.rollout_function
        if self._compiled_for is not compiled_for:
            self._function = distiller.make_rollout_function(self.rollout)
            self._compiled_for = compiled_for
        distiller.sync_state()
        written = self._preview(self._function, batch, self.batch_size)
        return response_texts(distiller.preprocessor, written)


def response_texts(preprocessor, rollout) -> list:
    """The responses of a rollout, or of packed data, as strings."""
    texts = preprocessor.generate_postprocess(
        {
            "token_ids": rollout["token_ids"],
            "padding_mask": rollout["response_mask"],
        }
    )
    return [str(text) for text in texts]
