import keras
from keras import ops

from keras_skd.acceptance.acceptance_rule import AcceptanceRule


@keras.saving.register_keras_serializable(package="keras_skd")
class TopK(AcceptanceRule):
    """Accepts a drafted token that is among the teacher's `k` likeliest.

    With `k` equal to the vocabulary size everything is accepted, which is
    on-policy distillation; with small `k` nearly every token is the teacher's.
    A token as likely as the `k`-th is accepted.

    Args:
        k: int, at least 1. Defaults to 25, the paper's choice.

    Example:

    ```python
    rollout = keras_skd.rollouts.Speculative(
        acceptance=keras_skd.acceptance.TopK(k=10)
    )
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325), Algorithm 1.
    """

    def __init__(self, k: int = 25):
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(
                f"`k` must be an int. Received: {k!r} of type "
                f"{type(k).__name__}"
            )
        if k < 1:
            raise ValueError(
                "`k` must be at least 1: with no token to accept, use the "
                f"teacher's own text. Received: {k}"
            )
        self.k = k

    def accept(self, token_ids, teacher_logits):
        # The rank of one token is a count of those above it: no sorting.
        at_token = ops.take_along_axis(
            teacher_logits, token_ids[..., None], axis=-1
        )
        above = ops.cast(teacher_logits > at_token, "int32")
        return ops.sum(above, axis=-1) < self.k

    def get_config(self):
        return {"k": self.k}
