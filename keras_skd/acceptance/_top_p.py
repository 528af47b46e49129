import keras
from keras import ops

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class TopP(AcceptanceRule):
    """Accepts a drafted token in the teacher's nucleus of mass `p`.

    The nucleus is the smallest set of the likeliest tokens whose probabilities
    sum to `p` or more. It is wide where the teacher is unsure and narrow where
    it is not.

    Args:
        p: float in (0, 1], or a schedule. Defaults to 0.95.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopP(p=0.9)
    )
    ```

    Reference:

    - [Holtzman et al., 2019](https://arxiv.org/abs/1904.09751), the nucleus.
    """

    def __init__(self, p=0.95):
        self.p = schedules.check(
            "p", p, lambda p: 0 < p <= 1, "above 0 and at most 1"
        )

    def accept(
        self, token_ids, teacher_logits, student_logits=None, training_step=0
    ):
        logits = ops.cast(teacher_logits, "float32")
        at_token = ops.take_along_axis(logits, token_ids[..., None], axis=-1)
        above = ops.where(logits > at_token, ops.softmax(logits), 0.0)
        mass_above = ops.sum(above, axis=-1)
        return mass_above < schedules.value_at(self.p, training_step)

    def get_config(self):
        return {"p": schedules.serialize(self.p)}
