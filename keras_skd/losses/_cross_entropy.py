import keras
from keras import ops

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor


@keras.saving.register_keras_serializable(package="keras_skd")
class CrossEntropy(DistillationLoss):
    """Cross-entropy of the tokens of the response under the student.

    With the student's probabilities `q`, at every position::

        loss = -log(q[token])

    No teacher is looked at. On responses from a data set this is supervised
    fine-tuning; on responses that the teacher wrote, sequence-level knowledge
    distillation (SeqKD); as a part of `keras_skd.losses.WeightedSum`, the
    "hard" loss beside the "soft" one.

    Args:
        temperature: float. The student's logits are divided by it. Defaults
            to `1.0`.
        source_weights: dict. A factor for the loss at each position, by who
            wrote the token there, as in
            `keras_skd.losses.DistillationLoss`. Defaults to `None`.
        reduction: string, as in `keras_skd.losses.DistillationLoss`. Defaults
            to `"sequence_mean"`.
        name: string. The name of the loss. Defaults to `"cross_entropy"`.
        dtype: string. The dtype of the arithmetic. Defaults to `None`, which
            is float32.

    Call arguments:
        y_true: int tensor `(batch, length)`. The token that each position
            predicts, that is, the one after it.
        y_pred: float tensor `(batch, length, vocabulary)`. The student's
            logits.
        sample_weight: bool, int or float tensor `(batch, length)`. What each
            position counts: the response mask, in general. Defaults to
            `None`, every position counts.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    ```python
    import keras
    import keras_skd

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

    def __init__(
        self,
        temperature: float = 1.0,
        source_weights: dict[str, float] | None = None,
        reduction: str | None = "sequence_mean",
        name: str = "cross_entropy",
        dtype: str | None = None,
    ):
        super().__init__(
            temperature=temperature,
            source_weights=source_weights,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        token_ids = ops.convert_to_tensor(y_true)
        student_logits = ops.convert_to_tensor(y_pred)
        if len(token_ids.shape) != len(student_logits.shape) - 1:
            raise ValueError(
                "`CrossEntropy` takes token ids (batch, length) and logits "
                "(batch, length, vocabulary). "
                f"Received: shapes {tuple(token_ids.shape)} and "
                f"{tuple(student_logits.shape)}"
            )
        logits = self._scale(student_logits)
        token_logits = ops.take_along_axis(
            logits, ops.expand_dims(token_ids, -1), axis=-1
        )
        return ops.logsumexp(logits, axis=-1) - ops.squeeze(token_logits, -1)

    def position_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None = None,
        sources: Tensor | None = None,
        context: dict | None = None,
    ) -> Tensor:
        if token_ids is None:
            raise ValueError(
                "`CrossEntropy` needs the predicted tokens: pass `token_ids`. "
                "Received: token_ids=None"
            )
        values = self.call(token_ids, student_logits)
        return self._apply_source_weights(values, sources)

    def get_config(self) -> dict:
        config = super().get_config()
        del config["top_k_targets"]
        return config
