import keras
from keras import ops

from keras_skd import _source as source_codes
from keras_skd.losses._log_space import LOG_ZERO
from keras_skd.losses._log_space import Tensor
from keras_skd.losses._log_space import top_k_and_rest
from keras_skd.losses._validation import check_number
from keras_skd.losses._validation import check_positive_integer

# Those who may have written a token of a response, by the names that arguments
# use. A loss covers neither the prompt nor the padding.
SOURCES = {
    "student": source_codes.STUDENT,
    "teacher": source_codes.TEACHER,
    "data": source_codes.DATA,
}

REDUCTIONS = ("sequence_mean", "token_mean", "sum", "none", None)


@keras.saving.register_keras_serializable(package="keras_skd")
class DistillationLoss(keras.losses.Loss):
    """Base class for losses between a teacher's and a student's logits.

    A subclass says how far apart two distributions are, in
    `divergence(teacher_log_probs, student_log_probs)`. This class does the
    rest: the temperature, the masking and the mean.

    All arithmetic is on log-probabilities in `dtype`, float32 unless asked
    otherwise and whatever the precision of the logits. Nothing is clipped, so
    a student whose probability of a token is `1e-30` still gets the gradient
    that it needs (`keras.losses.KLDivergence` clips at `1e-7`, and gives it
    none). No gradient reaches the teacher. A vocabulary entry whose logit is
    minus infinity in both models counts as absent.

    Args:
        temperature: float. Both models' logits are divided by it. The loss is
            *not* multiplied by its square, as some libraries do to keep the
            size of the gradient: scale the learning rate, or use
            `keras_skd.losses.WeightedSum`. Defaults to `1.0`.
        top_k_targets: int. If set, both distributions are reduced to the
            teacher's `top_k_targets` most probable tokens and one more
            outcome, "any other token". This bounds what has to be kept of the
            teacher, and is still a divergence between two distributions.
            A value of the vocabulary's size or more changes nothing.
            Defaults to `None`, the whole vocabulary.
        source_weights: dict. A factor for the loss at each position, by who
            wrote the token there: `"student"`, `"teacher"` or `"data"`. A name
            left out has factor 1. The factors scale the loss and do not enter
            the denominator of a mean. Defaults to `None`.
        reduction: string. How the values of the positions become a number.
            `"sequence_mean"` is the mean over the positions of each sequence,
            then over the batch (Eq. 1 of the paper below); `"token_mean"` the
            mean over all positions of the batch, so that long responses count
            for more; `"sum"` their sum; `"none"` or `None` keeps them apart.
            Defaults to `"sequence_mean"`.
        name: string. The name of the loss. Defaults to `None`, for a name
            after the class.
        dtype: string. The dtype of the arithmetic. Defaults to `None`, which
            is float32 whatever `keras.config.floatx()` is.

    Call arguments:
        y_true: float tensor `(batch, length, vocabulary)`. The teacher's
            logits.
        y_pred: float tensor `(batch, length, vocabulary)`. The student's
            logits.
        sample_weight: bool, int or float tensor `(batch, length)`. What each
            position counts: the response mask, in general. A position of
            weight 0 contributes neither to the value nor to the gradient, even
            where its logits are not finite. A row whose weights are all 0
            gives 0. Defaults to `None`, every position counts.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Example:

    Chi-squared divergence, which the library does not have.

    ```python
    import keras
    from keras import ops
    import keras_skd

    class ChiSquared(keras_skd.losses.DistillationLoss):
        def divergence(self, teacher_log_probs, student_log_probs):
            log_ratio = 2.0 * teacher_log_probs - student_log_probs
            return ops.sum(ops.exp(log_ratio), axis=-1) - 1.0

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = ops.arange(8) >= ops.array([[3], [5]])
    loss = ChiSquared(temperature=2.0)
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Xu et al., 2024, Eq. 1](https://arxiv.org/abs/2410.11325)
    """

    # Whether the teacher's logits are looked at. The teacher's forward pass
    # can be left out for a loss of which no part does.
    needs_teacher = True

    # Whether `prepare()` needs both models' log-probabilities of the tokens.
    needs_token_log_probs = False

    def __init__(
        self,
        temperature: float = 1.0,
        top_k_targets: int | None = None,
        source_weights: dict[str, float] | None = None,
        reduction: str | None = "sequence_mean",
        name: str | None = None,
        dtype: str | None = None,
    ):
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {REDUCTIONS}. "
                f"Received: reduction={reduction!r}"
            )
        if top_k_targets is not None:
            top_k_targets = check_positive_integer(
                "top_k_targets", top_k_targets
            )
        # Keras knows other reductions than ours, and would check for those.
        super().__init__(name=name, reduction=None, dtype=dtype or "float32")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(
                "`dtype` must be float32 or float64, since log-probabilities "
                "need the precision; logits may have any. "
                f"Received: dtype={dtype!r}"
            )
        self.reduction = reduction
        self.temperature = check_number("temperature", temperature, "(0, inf)")
        self.top_k_targets = top_k_targets
        self.source_weights = _check_source_weights(source_weights)

    def divergence(
        self, teacher_log_probs: Tensor, student_log_probs: Tensor
    ) -> Tensor:
        """Returns how far the student is from the teacher at each position.

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

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss at each position, before masks and means.

        Args:
            y_true: float tensor `(..., vocabulary)`, the teacher's logits.
            y_pred: float tensor `(..., vocabulary)`, the student's logits.

        Returns:
            A tensor `(...)`, in the dtype of the loss.
        """
        return self.divergence(*self._log_probs(y_true, y_pred))

    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        with keras.name_scope(self.name):
            y_true = ops.convert_to_tensor(y_true)
            y_pred = ops.convert_to_tensor(y_pred)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(
                    sample_weight, y_pred.shape[:-1]
                )
                # `reduce()` drops the value of a masked position, which is
                # too late for its gradient: zero times NaN is NaN.
                y_true = _zero_outside(sample_weight, y_true)
                y_pred = _zero_outside(sample_weight, y_pred)
            values = self._apply_source_weights(
                self.call(y_true, y_pred), sources=None
            )
            return self.reduce(values, sample_weight)

    def prepare(
        self,
        response_mask: Tensor,
        sources: Tensor,
        training_step: int | Tensor,
        teacher_token_log_probs: Tensor | None = None,
        student_token_log_probs: Tensor | None = None,
    ) -> dict:
        """Returns what `position_values()` must know of the whole batch.

        The batch's positions may reach `position_values()` a few at a time.
        What a loss needs of whole rows, of the batch or of the progress of
        training, it works out here, once a step.

        Args:
            response_mask: tensor `(batch, length)`, true where the loss
                counts.
            sources: int tensor `(batch, length)`, who wrote each predicted
                token.
            training_step: int or int tensor. Number of updates done.
            teacher_token_log_probs: float tensor `(batch, length)`. The log of
                the probability that the teacher gives each predicted token.
                Passed if `needs_token_log_probs`.
            student_token_log_probs: the student's.

        Returns:
            A structure (as of `keras.tree`) of tensors `(batch, length)`. Cut
            along with the positions, it becomes the `context` of
            `position_values()`. It is empty for most losses.
        """
        return {}

    def position_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None = None,
        sources: Tensor | None = None,
        context: dict | None = None,
    ) -> Tensor:
        """Returns the loss at each of some positions, for `reduce()`.

        Any set of positions will do: all of a batch, or a few of them at a
        time where all of their logits would not fit into memory. The logits at
        a position predict the *next* token, so that `token_ids` and `sources`
        are already shifted by one.

        Args:
            teacher_logits: float tensor `(..., vocabulary)`. `None` will do if
                `needs_teacher` is false.
            student_logits: float tensor `(..., vocabulary)`.
            token_ids: int tensor `(...)`, the predicted tokens.
            sources: int tensor `(...)`, who wrote them: 2 the student, 3 the
                teacher, 4 the data set.
            context: these positions' part of what `prepare()` returned.

        Returns:
            A tensor `(...)`, in the dtype of the loss.
        """
        values = self.call(teacher_logits, student_logits)
        return self._apply_source_weights(values, sources)

    def reduce(
        self, values: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Reduces the values of the positions as `reduction` says.

        Args:
            values: float tensor `(batch, length)`.
            sample_weight: bool, int or float tensor `(batch, length)`, what
                each position counts. Defaults to `None`, all the same.

        Returns:
            A scalar, or a tensor `(batch, length)` if `reduction` is `"none"`.
        """
        values = ops.cast(values, self.dtype)
        if sample_weight is None:
            sample_weight = ops.ones_like(values)
        sample_weight = _check_sample_weight(sample_weight, values.shape)
        weights = self.position_weights(sample_weight)
        # Not a product alone: zero times infinity is NaN.
        values = ops.where(weights == 0, 0.0, values) * weights
        if self.reduction in ("none", None):
            return values
        return ops.sum(values)

    def position_weights(self, sample_weight: Tensor) -> Tensor:
        """Returns the factor with which each position enters the sum.

        `reduce(values, sample_weight)` is `sum(values * weights)` with these
        weights. They do not depend on the values, and so let the gradient of a
        part of the positions be taken before the others are known.

        Args:
            sample_weight: bool, int or float tensor `(batch, length)`.

        Returns:
            A tensor `(batch, length)`, in the dtype of the loss.
        """
        weights = ops.cast(sample_weight, self.dtype)
        if self.reduction == "token_mean":
            return weights / ops.maximum(ops.sum(weights), 1.0)
        if self.reduction == "sequence_mean":
            # A row without a response has nothing to divide by.
            totals = ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)
            return weights / totals / ops.cast(ops.size(totals), self.dtype)
        return weights

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            {
                "temperature": self.temperature,
                "top_k_targets": self.top_k_targets,
                "source_weights": self.source_weights,
                "dtype": self.dtype,
            }
        )
        return config

    def _scale(self, logits):
        """Returns the logits at the loss's temperature and precision."""
        logits = ops.cast(logits, self.dtype) / self.temperature
        # Only minus infinity is below the floor.
        return ops.maximum(logits, LOG_ZERO)

    def _log_probs(self, teacher_logits, student_logits):
        """Returns both models' log-probabilities `(..., outcomes)`."""
        teacher_logits = ops.convert_to_tensor(teacher_logits)
        student_logits = ops.convert_to_tensor(student_logits)
        if _differ(teacher_logits.shape, student_logits.shape):
            raise ValueError(
                "The teacher's and the student's logits must have the same "
                "shape (..., vocabulary), over one vocabulary. "
                f"Received: {tuple(teacher_logits.shape)} for the teacher, "
                f"{tuple(student_logits.shape)} for the student"
            )
        teacher_logits = ops.stop_gradient(teacher_logits)
        teacher_log_probs = ops.log_softmax(self._scale(teacher_logits))
        student_log_probs = ops.log_softmax(self._scale(student_logits))
        k = self.top_k_targets
        if k is None or k >= student_logits.shape[-1]:
            return teacher_log_probs, student_log_probs
        return top_k_and_rest(teacher_log_probs, student_log_probs, k)

    def _apply_source_weights(self, values, sources):
        if self.source_weights is None:
            return values
        if sources is None:
            raise ValueError(
                f"{self.name!r} has `source_weights`, and needs to know who "
                "wrote each token: call `position_values()` with `sources`, "
                "then `reduce()`. Received: sources=None"
            )
        factors = ops.zeros_like(values)
        for source, code in SOURCES.items():
            factor = self.source_weights.get(source, 1.0)
            factors = ops.where(ops.equal(sources, code), factor, factors)
        return ops.where(factors == 0, 0.0, values) * factors


def _check_source_weights(source_weights):
    if source_weights is None:
        return None
    if not isinstance(source_weights, dict):
        raise TypeError(
            "`source_weights` must be a dict such as "
            '`{"student": 0.5}`, or `None`. '
            f"Received: source_weights={source_weights!r}"
        )
    unknown = sorted(set(source_weights) - set(SOURCES), key=str)
    if unknown:
        raise ValueError(
            f"`source_weights` knows the sources {list(SOURCES)}. "
            f"Received: {unknown}"
        )
    return {
        source: check_number(f"source_weights[{source!r}]", weight, "[0, inf)")
        for source, weight in source_weights.items()
    }


def _check_sample_weight(sample_weight, shape):
    sample_weight = ops.convert_to_tensor(sample_weight)
    if _differ(sample_weight.shape, shape):
        raise ValueError(
            "`sample_weight` must have one weight for each position. "
            f"Received: shape {tuple(sample_weight.shape)}, "
            f"for losses of shape {tuple(shape)}"
        )
    return sample_weight


def _zero_outside(sample_weight, x):
    """Replaces tokens or logits `x` by 0 where the weight is 0."""
    mask = ops.cast(sample_weight, "bool")
    if len(x.shape) > len(mask.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.where(mask, x, ops.zeros_like(x))


def _differ(shape, other):
    """Whether two shapes differ, as far as they are known."""
    return len(shape) != len(other) or any(
        a != b and a is not None and b is not None
        for a, b in zip(shape, other, strict=True)
    )
