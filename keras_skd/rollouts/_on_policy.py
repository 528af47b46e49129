import keras
import keras_hub

from keras_skd import _source as sources
from keras_skd.decoding import Prompts
from keras_skd.decoding import _lockstep as lockstep
from keras_skd.decoding import _ragged as ragged
from keras_skd.decoding import finish
from keras_skd.decoding import get_sampler
from keras_skd.rollouts._rollout import Rollout


@keras.saving.register_keras_serializable(package="keras_skd")
class OnPolicy(Rollout):
    """The student writes alone: on-policy knowledge distillation.

    Args:
        student_sampler: a `keras_hub.samplers.Sampler` or its name. Defaults
            to `"random"`.

    Example:

    ```python
    rollout = keras_skd.rollouts.OnPolicy(
        student_sampler=keras_hub.samplers.TopPSampler(p=0.9)
    )
    distiller = keras_skd.Distiller(teacher, student, rollout=rollout)
    ```

    Reference:

    - [Agarwal et al., 2023](https://arxiv.org/abs/2306.13649), lambda = 1.
    """

    def __init__(
        self, student_sampler: str | keras_hub.samplers.Sampler = "random"
    ):
        self.student_sampler = get_sampler(student_sampler, "student_sampler")

    def samplers(self):
        return {"student_sampler": self.student_sampler}

    def call(self, batch, student, teacher, stop_token_ids=(), training_step=0):
        decoding = ragged if student.can_roll_back else lockstep
        written = decoding.write(
            student,
            self.student_sampler,
            Prompts(batch),
            sources.STUDENT,
            stop_token_ids,
        )
        return finish(**written)
