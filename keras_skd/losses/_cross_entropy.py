from keras import ops

from keras_skd._checks import check_number
from keras_skd._log_space import Tensor
from keras_skd._log_space import at_token
from keras_skd._log_space import scale_logits
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._distillation_loss import registry


@registry.register("cross_entropy")
class CrossEntropy(DistillationLoss):
    """Cross-entropy of the response tokens under the student.

    With the student's probabilities `q`, at every position::

        loss = -log(q[token])

    The teacher is not used. On responses from the data this is supervised
    fine-tuning; on responses that the teacher wrote, sequence-level knowledge
    distillation (SeqKD); in a `keras_skd.losses.WeightedSum`, the loss on
    "hard" labels beside that on "soft" ones.

    Args:
        temperature: float. The student's logits are divided by it. Defaults
            to `1.0`.
        **kwargs: see `keras_skd.losses.DistillationLoss`.

    Call arguments:
        y_true: int tensor `(batch, length)`. The token that each position
            predicts, which is the next one.
        y_pred, sample_weight: see `keras_skd.losses.DistillationLoss`.

    Example:

    ```python
    token_ids = keras.random.randint((2, 8), 0, 32)
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.CrossEntropy()
    loss(token_ids, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Kim and Rush, 2016](https://arxiv.org/abs/1606.07947)
    """

    needs_teacher = False

    def __init__(self, temperature: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_number("temperature", temperature, "(0, inf)")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.position_values(None, y_pred, token_ids=y_true)

    def compute_values(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        if token_ids is None:
            raise ValueError(
                "`CrossEntropy` needs the predicted tokens: pass `token_ids`. "
                "Received: token_ids=None"
            )
        token_ids = ops.convert_to_tensor(token_ids)
        if len(token_ids.shape) != len(student_logits.shape) - 1:
            raise ValueError(
                "`CrossEntropy` takes token ids (batch, length) and logits "
                "(batch, length, vocabulary). "
                f"Received: shapes {tuple(token_ids.shape)} and "
                f"{tuple(student_logits.shape)}"
            )
        logits = scale_logits(student_logits, self.temperature, self.dtype)
        return ops.logsumexp(logits, axis=-1) - at_token(logits, token_ids)

    def get_config(self) -> dict:
        return {**super().get_config(), "temperature": self.temperature}
