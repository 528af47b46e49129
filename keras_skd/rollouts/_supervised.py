import keras
from keras import ops

from keras_skd import _source as sources
from keras_skd.decoding import before_any
from keras_skd.decoding import finish
from keras_skd.decoding import is_stop
from keras_skd.rollouts._rollout import Rollout


@keras.saving.register_keras_serializable(package="keras_skd")
class Supervised(Rollout):
    """Takes the responses of the data: supervised knowledge distillation.

    Nothing is sampled. The student learns the teacher's distribution at every
    token of the given response, up to and including its first stop token.

    Example:

    ```python
    distiller = keras_skd.Distiller(
        teacher, student, rollout=keras_skd.rollouts.Supervised()
    )
    distiller.compile(optimizer="adam", loss="forward_kl")
    distiller.fit({"prompts": ["2 + 2 ="], "responses": [" 4"]})
    ```

    Reference:

    - [Sanh et al., 2019](https://arxiv.org/abs/1910.01108), on sequences.
    """

    needs_responses = True

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        token_ids = ops.cast(batch["token_ids"], "int32")
        padding_mask = ops.cast(batch["padding_mask"], "bool")
        response = ops.cast(batch["response_mask"], "bool") & padding_mask
        stops = response & is_stop(token_ids, stop_token_ids)
        written = ops.where(response, sources.DATA, sources.PROMPT)
        keep = padding_mask & before_any(stops)
        return finish(token_ids, ops.where(keep, written, sources.PADDING))
