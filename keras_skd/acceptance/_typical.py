import keras
from keras import ops

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class Typical(AcceptanceRule):
    """Accepts a drafted token that is not surprising, given the entropy.

    A token of probability p to the teacher stands if
    `p > min(epsilon, delta * exp(-H))`, where H is the entropy, in nats, of
    the teacher's distribution: where the teacher is unsure, less will do.

    Args:
        epsilon: float in [0, 1], or a schedule. Defaults to 0.09.
        delta: float in [0, 1], or a schedule. Defaults to 0.3.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.Typical()
    )
    ```

    Reference:

    - [Cai et al., 2024](https://arxiv.org/abs/2401.10774), section 2.3.1.
    """

    def __init__(self, epsilon=0.09, delta=0.3):
        self.epsilon = schedules.check(
            "epsilon", epsilon, lambda x: 0 <= x <= 1, "in [0, 1]"
        )
        self.delta = schedules.check(
            "delta", delta, lambda x: 0 <= x <= 1, "in [0, 1]"
        )

    def accept(
        self, token_ids, teacher_logits, student_logits=None, training_step=0
    ):
        log_probs = ops.log_softmax(ops.cast(teacher_logits, "float32"))
        probabilities = ops.exp(log_probs)
        # A logit of minus infinity adds nothing.
        terms = ops.where(probabilities > 0, probabilities * log_probs, 0.0)
        entropy = -ops.sum(terms, axis=-1)
        at_token = ops.take_along_axis(
            probabilities, token_ids[..., None], axis=-1
        )
        floor = ops.minimum(
            schedules.value_at(self.epsilon, training_step),
            schedules.value_at(self.delta, training_step) * ops.exp(-entropy),
        )
        return at_token[..., 0] > floor

    def get_config(self):
        return {
            "epsilon": schedules.serialize(self.epsilon),
            "delta": schedules.serialize(self.delta),
        }
