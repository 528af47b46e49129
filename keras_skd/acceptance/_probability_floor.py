import keras
from keras import ops

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class ProbabilityFloor(AcceptanceRule):
    """Accepts a drafted token of at least some probability to the teacher.

    Args:
        floor: float in [0, 1], or a schedule. Defaults to 0.05.

    Example:

    Strict at first, then relaxed, over 1,000 batches:

    ```python
    rule = keras_skd.acceptance.ProbabilityFloor(
        keras_skd.schedules.Cosine(0.5, 0.25, num_steps=1000)
    )
    rollout = keras_skd.rollouts.Speculative(acceptance=rule)
    ```
    """

    def __init__(self, floor=0.05):
        self.floor = schedules.check(
            "floor", floor, lambda floor: 0 <= floor <= 1, "in [0, 1]"
        )

    def accept(
        self, token_ids, teacher_logits, student_logits=None, training_step=0
    ):
        probabilities = ops.softmax(ops.cast(teacher_logits, "float32"))
        at_token = ops.take_along_axis(
            probabilities, token_ids[..., None], axis=-1
        )
        return at_token[..., 0] >= schedules.value_at(self.floor, training_step)

    def get_config(self):
        return {"floor": schedules.serialize(self.floor)}
