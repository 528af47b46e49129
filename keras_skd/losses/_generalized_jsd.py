import keras

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import kl_divergence
from keras_skd.losses._log_space import log_mixture
from keras_skd.losses._validation import check_number


@keras.saving.register_keras_serializable(package="keras_skd")
class GeneralizedJSD(DistillationLoss):
    """Generalized Jensen-Shannon divergence of teacher and student.

    With the teacher's probabilities `p` and the student's `q`, at every
    position::

        m = beta * p + (1 - beta) * q
        loss = beta * KL(p || m) + (1 - beta) * KL(q || m)

    `beta` is the teacher's share of the mixture, as in the paper below and in
    TRL; some libraries write it for the student's. At `beta=0.5` this is the
    Jensen-Shannon divergence, at most `log(2)`.

    At the ends the formula itself is 0 for any two models. As in TRL,
    `beta=0` is `KL(p || q)` and `beta=1` is `KL(q || p)` instead, which are
    the limits of the formula divided by `beta` and by `1 - beta`. So the loss
    jumps at both ends: `beta=0.001` is about a thousandth of `beta=0`.

    Args:
        beta: float, in `[0, 1]`. Defaults to `0.5`.
        name: string. The name of the loss. Defaults to `"generalized_jsd"`.
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
        ValueError: If `beta` is not in `[0, 1]`, or another argument is out
            of its range.

    Example:

    ```python
    import keras
    import keras_skd

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.GeneralizedJSD(beta=0.1)
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Agarwal et al., 2023](https://arxiv.org/abs/2306.13649)
    """

    def __init__(
        self, beta: float = 0.5, name: str = "generalized_jsd", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.beta = check_number("beta", beta, "[0, 1]")

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        if self.beta == 0:
            return kl_divergence(teacher_log_probs, student_log_probs)
        if self.beta == 1:
            return kl_divergence(student_log_probs, teacher_log_probs)
        mixture = log_mixture(teacher_log_probs, student_log_probs, self.beta)
        return self.beta * kl_divergence(teacher_log_probs, mixture) + (
            1.0 - self.beta
        ) * kl_divergence(student_log_probs, mixture)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update({"beta": self.beta})
        return config
