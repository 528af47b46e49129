import keras

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import kl_divergence
from keras_skd.losses._log_space import log_mixture
from keras_skd.losses._validation import check_number


@keras.saving.register_keras_serializable(package="keras_skd")
class SkewKL(DistillationLoss):
    """Skewed Kullback-Leibler divergence from the teacher to the student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(p || alpha * p + (1 - alpha) * q)

    The mixture bounds the loss by `-log(alpha)`, and its gradient with it,
    where the student gives next to nothing to what the teacher would say.
    `alpha=0` is `keras_skd.losses.ForwardKL`.

    Args:
        alpha: float, in `[0, 1)`. The teacher's share of the mixture.
            Defaults to `0.1`.
        name: string. The name of the loss. Defaults to `"skew_kl"`.
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
        ValueError: If `alpha` is not in `[0, 1)`, or another argument is out
            of its range.

    Example:

    ```python
    import keras
    import keras_skd

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.SkewKL(alpha=0.1)
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898)
    """

    def __init__(self, alpha: float = 0.1, name: str = "skew_kl", **kwargs):
        super().__init__(name=name, **kwargs)
        self.alpha = check_number("alpha", alpha, "[0, 1)")

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        return kl_divergence(
            teacher_log_probs,
            log_mixture(teacher_log_probs, student_log_probs, self.alpha),
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update({"alpha": self.alpha})
        return config
