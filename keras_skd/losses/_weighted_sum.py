from collections.abc import Sequence

import keras

from keras_skd.losses import _serialization as serialization
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._validation import check_number


@keras.saving.register_keras_serializable(package="keras_skd")
class WeightedSum(DistillationLoss):
    """Sum of losses, each times a factor.

    With losses `l_i` and factors `w_i`, at every position::

        loss = sum(w_i * l_i)

    Each loss keeps its own `temperature`, `top_k_targets` and
    `source_weights`. The values of the positions are reduced once, after the
    sum, so that the `reduction` of the losses in it has no effect.

    Args:
        losses: list of `keras_skd.losses.DistillationLoss`, or of whatever
            `keras_skd.losses.get` takes for one, such as `"forward_kl"`.
        weights: list of floats, one for each loss. Defaults to `None`, which
            is 1 for each.
        source_weights: dict. A factor for the whole sum at each position, by
            who wrote the token there, as in
            `keras_skd.losses.DistillationLoss`. Defaults to `None`.
        reduction: string, as in `keras_skd.losses.DistillationLoss`. Defaults
            to `"sequence_mean"`.
        name: string. The name of the loss. Defaults to `"weighted_sum"`.
        dtype: string. The dtype of the sum. Defaults to `None`, which is
            float32.

    Call arguments:
        y_true: float tensor `(batch, length, vocabulary)`. The teacher's
            logits. A sum with `keras_skd.losses.CrossEntropy` in it needs the
            tokens as well: call `position_values()`, then `reduce()`.
        y_pred: float tensor `(batch, length, vocabulary)`. The student's
            logits.
        sample_weight: bool, int or float tensor `(batch, length)`. What each
            position counts: the response mask, in general. Defaults to
            `None`, every position counts.

    Raises:
        ValueError: If `losses` is empty or `weights` has another length.
        TypeError: If one of `losses` is not a distillation loss.

    Example:

    ```python
    import keras
    import keras_skd

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    token_ids = keras.random.randint((2, 8), 0, 32)
    response_mask = keras.ops.arange(8) >= keras.ops.array([[3], [5]])
    loss = keras_skd.losses.WeightedSum(
        ["forward_kl", "cross_entropy"], weights=[0.9, 0.1]
    )
    values = loss.position_values(teacher_logits, student_logits, token_ids)
    loss.reduce(values, response_mask)
    ```

    References:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(
        self,
        losses: Sequence,
        weights: Sequence[float] | None = None,
        source_weights: dict[str, float] | None = None,
        reduction: str | None = "sequence_mean",
        name: str = "weighted_sum",
        dtype: str | None = None,
    ):
        super().__init__(
            source_weights=source_weights,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        if not isinstance(losses, (list, tuple)) or not losses:
            raise ValueError(
                "`losses` must be a list of at least one loss. "
                f"Received: losses={losses!r}"
            )
        if weights is None:
            weights = [1.0] * len(losses)
        if len(weights) != len(losses):
            raise ValueError(
                "`weights` must have one factor for each of `losses`. "
                f"Received: {len(weights)} factors, weights={weights}, for "
                f"{len(losses)} losses"
            )
        self.losses = [serialization.get(loss) for loss in losses]
        self.weights = [
            check_number(f"weights[{i}]", weight, "(-inf, inf)")
            for i, weight in enumerate(weights)
        ]

    @property
    def needs_teacher(self) -> bool:
        return any(loss.needs_teacher for loss in self.losses)

    @property
    def needs_token_log_probs(self) -> bool:
        return any(loss.needs_token_log_probs for loss in self.losses)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.position_values(y_true, y_pred)

    def prepare(self, *args, **kwargs) -> list:
        return [loss.prepare(*args, **kwargs) for loss in self.losses]

    def position_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None = None,
        sources: Tensor | None = None,
        context: list | None = None,
    ) -> Tensor:
        contexts = context or [None] * len(self.losses)
        values = sum(
            weight
            * loss.position_values(
                teacher_logits, student_logits, token_ids, sources, part
            )
            for weight, loss, part in zip(
                self.weights, self.losses, contexts, strict=True
            )
        )
        return self._apply_source_weights(values, sources)

    def get_config(self) -> dict:
        config = super().get_config()
        # These are the parts' own.
        del config["temperature"], config["top_k_targets"]
        config.update(
            {
                "losses": [
                    serialization.serialize(loss) for loss in self.losses
                ],
                "weights": self.weights,
            }
        )
        return config
