import keras
from keras import ops

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import kl_divergence
from keras_skd.losses._log_space import log_mixture
from keras_skd.losses._validation import check_number


@keras.saving.register_keras_serializable(package="keras_skd")
class SkewReverseKL(DistillationLoss):
    """Skewed Kullback-Leibler divergence from the student to the teacher.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        loss = KL(q || (1 - alpha) * p + alpha * q)

    The mixture bounds the loss by `-log(alpha)`, where the teacher gives next
    to nothing to what the student would say. `alpha=0` is
    `keras_skd.losses.ReverseKL`.

    Args:
        alpha: float, in `[0, 1)`. The student's share of the mixture.
            Defaults to `0.1`.
        stop_gradient_mixture: bool. Whether the student in the mixture counts
            as a constant, as in the released code of DistiLLM-2. The values
            are the same, the gradients are not. Defaults to `False`, the
            gradient of the formula.
        name: string. The name of the loss. Defaults to `"skew_reverse_kl"`.
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
    loss = keras_skd.losses.SkewReverseKL(alpha=0.1)
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898)
        - [Ko et al., 2025](https://arxiv.org/abs/2503.07067)
    """

    def __init__(
        self,
        alpha: float = 0.1,
        stop_gradient_mixture: bool = False,
        name: str = "skew_reverse_kl",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.alpha = check_number("alpha", alpha, "[0, 1)")
        self.stop_gradient_mixture = stop_gradient_mixture

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        mixture = log_mixture(student_log_probs, teacher_log_probs, self.alpha)
        if self.stop_gradient_mixture:
            mixture = ops.stop_gradient(mixture)
        return kl_divergence(student_log_probs, mixture)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            {
                "alpha": self.alpha,
                "stop_gradient_mixture": self.stop_gradient_mixture,
            }
        )
        return config
