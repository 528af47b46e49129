import keras
from keras import ops

from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import kl_divergence
from keras_skd.losses._validation import check_number


@keras.saving.register_keras_serializable(package="keras_skd")
class AdaptiveKL(DistillationLoss):
    """Adaptive mixture of the forward and the reverse KL divergence.

    The forward divergence first fits the tokens that the teacher finds
    probable, the reverse divergence those that it does not. This loss weighs
    them by where teacher and student differ more. With the teacher's
    probabilities `p` and the student's `q`, at every position::

        head = smallest set of the teacher's most probable tokens that holds
               at least `head_mass` of its probability
        gap_head = sum(abs(p - q) over head)
        gap_tail = sum(abs(p - q) over the other tokens)
        loss = gap_head / (gap_head + gap_tail) * KL(p || q)
             + gap_tail / (gap_head + gap_tail) * KL(q || p)

    The weights count as constants in the gradient. Where teacher and student
    are equal, the loss is 0. It costs a sort of the vocabulary.

    Args:
        head_mass: float, in `(0, 1)`. Defaults to `0.5`.
        name: string. The name of the loss. Defaults to `"adaptive_kl"`.
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
        ValueError: If `head_mass` is not in `(0, 1)`, or another argument is
            out of its range.

    Example:

    ```python
    import keras
    import keras_skd

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.AdaptiveKL()
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Wu et al., 2024](https://arxiv.org/abs/2404.02657)
    """

    def __init__(
        self, head_mass: float = 0.5, name: str = "adaptive_kl", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.head_mass = check_number("head_mass", head_mass, "(0, 1)")

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        p = ops.exp(teacher_log_probs)
        q = ops.stop_gradient(ops.exp(student_log_probs))
        by_rank = ops.argsort(-p, axis=-1)
        p = ops.take_along_axis(p, by_rank, axis=-1)
        q = ops.take_along_axis(q, by_rank, axis=-1)
        gaps = ops.abs(p - q)
        # A token is in the head unless those before it suffice.
        in_head = ops.cumsum(p, axis=-1) - p < self.head_mass
        gap_head = ops.sum(ops.where(in_head, gaps, 0.0), axis=-1)
        gap_tail = ops.sum(ops.where(in_head, 0.0, gaps), axis=-1)
        total = gap_head + gap_tail

        forward = kl_divergence(teacher_log_probs, student_log_probs)
        reverse = kl_divergence(student_log_probs, teacher_log_probs)
        # Without a gap there is nothing to weigh: 0 / 0 is 0 here.
        return (
            ops.divide_no_nan(gap_head, total) * forward
            + ops.divide_no_nan(gap_tail, total) * reverse
        )

    def get_config(self) -> dict:
        config = super().get_config()
        config.update({"head_mass": self.head_mass})
        return config
