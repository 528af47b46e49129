from keras import ops

from keras_skd._checks import check_integer
from keras_skd._checks import check_number
from keras_skd._log_space import Tensor
from keras_skd._log_space import scale_logits
from keras_skd._log_space import top_k_and_rest
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._distillation_loss import registry
from keras_skd.losses._distillation_loss import shapes_differ


@registry.register()
class Divergence(DistillationLoss):
    """Base class of the divergences between teacher and student.

    A subclass implements its formula, `divergence()`, on log-probabilities.
    Tokens whose logits are minus infinity in both models are ignored.

    Args:
        temperature: float. Both models' logits are divided by it. The loss is
            *not* multiplied by its square, as some libraries do to keep the
            size of the gradient: scale the learning rate, or use
            `keras_skd.losses.WeightedSum`. Defaults to `1.0`.
        top_k_targets: int. If set, both distributions are reduced to the
            teacher's `top_k_targets` most probable tokens and one more
            outcome, "any other token". This limits the size of the targets,
            and is still a divergence between two distributions. A number that
            is not below the vocabulary's size has no effect. Defaults to
            `None`, the whole vocabulary.
        **kwargs: see `keras_skd.losses.DistillationLoss`: `source_weights`,
            `reduction`, `name` and `dtype`.

    Example:

    The chi-squared divergence, which the library does not have.

    ```python
    from keras import ops

    class ChiSquared(keras_skd.losses.Divergence):
        def divergence(self, teacher_log_probs, student_log_probs):
            log_ratio = 2.0 * teacher_log_probs - student_log_probs
            return ops.sum(ops.exp(log_ratio), axis=-1) - 1.0

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = ops.arange(8) >= ops.array([[3], [5]])
    loss = ChiSquared(temperature=2.0)
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k_targets: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.temperature = check_number("temperature", temperature, "(0, inf)")
        if top_k_targets is not None:
            top_k_targets = check_integer("top_k_targets", top_k_targets, 1)
        self.top_k_targets = top_k_targets

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        """Returns the divergence at each position.

        Args:
            teacher_log_probs: float tensor `(..., outcomes)`, without a
                gradient. The outcomes are the vocabulary, or
                `top_k_targets + 1` groups of it.
            student_log_probs: float tensor of the same shape.

        Returns:
            A float tensor `(...)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement `divergence()`."
        )

    def compute_values(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        return self.divergence(*self.log_probs(teacher_logits, student_logits))

    def log_probs(
        self, teacher_logits: Tensor, student_logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns both models' log-probabilities `(..., outcomes)`."""
        if shapes_differ(teacher_logits.shape, student_logits.shape):
            raise ValueError(
                "The teacher's and the student's logits must have the same "
                "shape (..., vocabulary), over one vocabulary. "
                f"Received: {tuple(teacher_logits.shape)} for the teacher, "
                f"{tuple(student_logits.shape)} for the student"
            )
        log_probs = [
            ops.log_softmax(scale_logits(x, self.temperature, self.dtype))
            for x in (teacher_logits, student_logits)
        ]
        k = self.top_k_targets
        if k is not None and k < student_logits.shape[-1]:
            return top_k_and_rest(*log_probs, k)
        return tuple(log_probs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "top_k_targets": self.top_k_targets,
        }
