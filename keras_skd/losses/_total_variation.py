import keras
from keras import ops

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor


@keras.saving.register_keras_serializable(package="keras_skd")
class TotalVariation(DistillationLoss):
    """Total variation distance of teacher and student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = 1/2 * sum(abs(p - q))

    It is symmetric and at most 1, and `1 - loss` is the probability that
    lossless speculative decoding accepts a token that the student drafts.
    Its gradient at a token is in proportion to `q`, so that a student learns
    slowly what it holds for impossible.

    Args:
        name: string. The name of the loss. Defaults to `"total_variation"`.
        **kwargs: `temperature`, `top_k_targets`, `source_weights`,
            `reduction` and `dtype`, as in
            `keras_skd.losses.DistillationLoss`.

    Call arguments:
        y_true: float tensor `(batch, length, vocabulary)`. The teacher's
            logits.
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

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.TotalVariation()
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Wen et al., 2023](https://arxiv.org/abs/2307.15190)
        - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192)
    """

    def __init__(self, name: str = "total_variation", **kwargs):
        super().__init__(name=name, **kwargs)

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        difference = ops.exp(teacher_log_probs) - ops.exp(student_log_probs)
        return 0.5 * ops.sum(ops.abs(difference), axis=-1)
