import keras

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import kl_divergence


@keras.saving.register_keras_serializable(package="keras_skd")
class ReverseKL(DistillationLoss):
    """Kullback-Leibler divergence from the student to the teacher.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(q || p) = sum(q * (log(q) - log(p)))

    It asks the student to stay away from where the teacher has little
    probability, and lets it leave out some of what the teacher would say.

    Args:
        name: string. The name of the loss. Defaults to `"reverse_kl"`.
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
    loss = keras_skd.losses.ReverseKL()
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Gu et al., 2023](https://arxiv.org/abs/2306.08543)
    """

    def __init__(self, name: str = "reverse_kl", **kwargs):
        super().__init__(name=name, **kwargs)

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        return kl_divergence(student_log_probs, teacher_log_probs)
