"""What the student writes, for callbacks."""

from keras_skd._checks import check_integer
from keras_skd._preprocessing import pack_generate_inputs
from keras_skd._preview import Preview
from keras_skd.rollouts import OnPolicy


class StudentText:
    """Generates with the student of a distiller, batch by batch.

    It draws from random numbers of its own, and decodes with a cache, each row
    at its own position. It is compiled once for each `Distiller.compile`.

    Args:
        sampler: a `keras_hub.samplers.Sampler` or its name.
        max_length: int or `None`, the number of tokens in a prompt and its
            response; `None` is the distiller's.
        batch_size: int.
        seed: int or `None`.

    Call arguments:
        distiller: a `keras_skd.Distiller` with a preprocessor.
        prompts: list of strings.

    Returns:
        List of strings, the responses.
    """

    def __init__(self, sampler, max_length, batch_size, seed):
        self.rollout = OnPolicy(sampler)
        self.max_length = max_length
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self._preview = Preview(self.rollout, seed)
        self._function = self._compiled_for = None

    def __call__(self, distiller, prompts):
        # Made anew by `compile`, for the student as it is now.
        compiled_for = distiller.rollout_function
        if self._compiled_for is not compiled_for:
            self._function = distiller.make_rollout_function(self.rollout)
            self._compiled_for = compiled_for
        batch, _ = pack_generate_inputs(
            list(prompts), distiller._pack, self.max_length
        )
        distiller.sync_state()
        written = self._preview(self._function, batch, self.batch_size)
        texts = distiller.preprocessor.generate_postprocess(
            {
                "token_ids": written["token_ids"],
                "padding_mask": written["response_mask"],
            }
        )
        return [str(text) for text in texts]
