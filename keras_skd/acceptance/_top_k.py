import keras
from keras import ops

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.schedules import _serialization as schedules


@keras.saving.register_keras_serializable(package="keras_skd")
class TopK(AcceptanceRule):
    """Accepts a drafted token that is among the teacher's `k` likeliest.

    With `k` equal to the vocabulary size everything is accepted, which is
    on-policy distillation; with small `k` nearly every token is the teacher's.
    A token as likely as the `k`-th is accepted.

    Args:
        k: int, at least 1, or a schedule (rounded up). Defaults to 25, the
            paper's choice.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(k=10)
    )
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), Algorithm 1.
    """

    def __init__(self, k=25):
        self.k = schedules.check(
            "k", k, lambda k: k >= 1, "at least 1", integer=True
        )

    def accept(
        self, token_ids, teacher_logits, student_logits=None, training_step=0
    ):
        # The rank of one token is a count of those above it: no sorting.
        at_token = ops.take_along_axis(
            teacher_logits, token_ids[..., None], axis=-1
        )
        above = ops.cast(teacher_logits > at_token, "int32")
        rank = ops.cast(ops.sum(above, axis=-1), "float32")
        return rank < schedules.value_at(self.k, training_step)

    def get_config(self):
        return {"k": schedules.serialize(self.k)}
