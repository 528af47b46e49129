import keras
from keras import ops

from keras_skd._backend import sum_over_replicas
from keras_skd._checks import check_number
from keras_skd._log_space import Tensor
from keras_skd._registry import Configurable
from keras_skd._registry import Registry
from keras_skd._source import Source

# The authors of a response, by the names that arguments use. No loss covers
# the prompt or the padding.
AUTHORS = {
    "student": Source.STUDENT.value,
    "teacher": Source.TEACHER.value,
    "data": Source.DATA.value,
}

REDUCTIONS = ("sequence_mean", "token_mean", "sum", "none", None)


class DistillationLoss(keras.losses.Loss, Configurable):
    """Base class of the losses that train a student on a teacher's logits.

    A subclass implements `compute_values()`, the loss at each position. This
    class weighs the positions by the author of their token, masks the prompt
    and the padding, and reduces the rest to a number. A loss that compares
    two distributions should subclass `keras_skd.losses.Divergence` instead,
    and implement `divergence()`.

    Losses are computed in `dtype`, whatever the precision of the logits.
    Nothing is clipped, so that a student whose probability of a token is
    `1e-30` still gets a gradient (`keras.losses.KLDivergence` clips at `1e-7`,
    and gives it none). No gradient reaches the teacher.

    Args:
        source_weights: dict. A factor for the loss at each position, by the
            author of the token there: `"student"`, `"teacher"` or `"data"`.
            Authors left out have the factor 1. The factors do not enter the
            denominator of a mean. Defaults to `None`.
        reduction: string. `"sequence_mean"` is the mean over the positions of
            each sequence, then over the batch (Eq. 1 of the paper below);
            `"token_mean"` the mean over all positions of the batch, so that
            long responses count for more; `"sum"` their sum; `"none"` or
            `None` does not reduce. Under `gradient_accumulation_steps`, Keras
            averages the gradients of batches with equal weights: only for
            `"sequence_mean"`, that is the gradient of one large batch.
            Defaults to `"sequence_mean"`.
        name: string. Defaults to the name that the class is registered under,
            such as `"forward_kl"`.
        dtype: string. `"float32"` or `"float64"`. Defaults to `"float32"`.

    Call arguments:
        y_true: float tensor `(batch, length, vocabulary)`. The teacher's
            logits.
        y_pred: float tensor `(batch, length, vocabulary)`. The student's
            logits.
        sample_weight: bool, int or float tensor `(batch, length)`. The weight
            of each position, usually the response mask. A position of
            weight 0 contributes neither to the value nor to the gradient, even
            where its logits are not finite. A row whose weights are all 0
            gives 0. Defaults to `None`, every position counts.

    A loss that needs more than the logits (the authors of the tokens, or the
    context from `prepare()`) cannot be called: use `position_values()`, then
    `reduce()`.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: if an argument has the wrong type.

    Example:

    The squared distance of the logits.

    ```python
    from keras import ops

    class LogitDistance(keras_skd.losses.DistillationLoss):
        def compute_values(
            self, teacher_logits, student_logits, token_ids, sources, context
        ):
            return ops.mean((teacher_logits - student_logits) ** 2, axis=-1)

    teacher_logits = keras.random.normal((2, 8, 32))
    student_logits = keras.random.normal((2, 8, 32))
    response_mask = ops.arange(8) >= ops.array([[3], [5]])
    loss = LogitDistance(reduction="token_mean")
    loss(teacher_logits, student_logits, sample_weight=response_mask)
    ```

    References:
        - [Xu et al., 2024, Eq. 1](https://arxiv.org/abs/2410.11325)
    """

    # Whether the teacher's logits are used. If not, its forward pass is
    # skipped.
    needs_teacher = True

    # Whether `prepare()` needs both models' log-probabilities of the tokens.
    needs_token_log_probs = False

    def __init__(
        self,
        source_weights: dict[str, float] | None = None,
        reduction: str | None = "sequence_mean",
        name: str | None = None,
        dtype: str = "float32",
    ):
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {REDUCTIONS}. "
                f"Received: reduction={reduction!r}"
            )
        # Keras would only accept its own reductions.
        super().__init__(
            name=name or self._default_name(), reduction=None, dtype=dtype
        )
        if self.dtype not in ("float32", "float64"):
            raise ValueError(
                "`dtype` must be float32 or float64, since log-probabilities "
                "need the precision; logits may have any dtype. "
                f"Received: dtype={dtype!r}"
            )
        self.reduction = reduction
        self.source_weights = _check_source_weights(source_weights)

    def compute_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None,
        sources: Tensor | None,
        context: dict | None,
    ) -> Tensor:
        """Returns the loss at each position. Subclasses implement this.

        The arguments are those of `position_values()`, which calls this and
        applies `source_weights` to the result. No gradient flows into
        `teacher_logits`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement `compute_values()`."
        )

    def prepare(
        self,
        response_mask: Tensor,
        sources: Tensor,
        training_step: int | Tensor,
        teacher_token_log_probs: Tensor | None = None,
        student_token_log_probs: Tensor | None = None,
    ) -> dict:
        """Returns the context that `position_values()` needs from the batch.

        `position_values()` may see a few positions at a time. Values that
        depend on whole rows, on the batch or on the progress of training are
        computed here, once a step.

        Args:
            response_mask: tensor `(batch, length)`, true where the loss
                counts.
            sources: int tensor `(batch, length)`, the `keras_skd.Source` of
                each predicted token.
            training_step: int or int tensor. Number of updates done.
            teacher_token_log_probs: float tensor `(batch, length)`. The log of
                the teacher's probability of each predicted token. Passed if
                `needs_token_log_probs`.
            student_token_log_probs: the student's, likewise.

        Returns:
            A nested structure of tensors `(batch, length)`, which are cut into
            the same chunks as the positions. It is empty for most losses.
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
        """Returns the loss at each position, for `reduce()`.

        The positions may be all of a batch, or a few at a time to save memory.
        The logits at a position predict the *next* token: `token_ids` and
        `sources` are already shifted by one.

        Args:
            teacher_logits: float tensor `(..., vocabulary)`, or `None` if
                `needs_teacher` is false.
            student_logits: float tensor `(..., vocabulary)`.
            token_ids: int tensor `(...)`, the predicted tokens.
            sources: int tensor `(...)`, their `keras_skd.Source`.
            context: what `prepare()` returned for these positions.

        Returns:
            A tensor `(...)`, in the dtype of the loss.
        """
        if teacher_logits is not None:
            teacher_logits = ops.stop_gradient(
                ops.convert_to_tensor(teacher_logits)
            )
        student_logits = ops.convert_to_tensor(student_logits)
        values = self.compute_values(
            teacher_logits, student_logits, token_ids, sources, context
        )
        return self._weigh_sources(values, sources)

    def part_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None = None,
        sources: Tensor | None = None,
        context: dict | None = None,
    ) -> dict:
        """Returns the parts that the loss at each position is the sum of.

        The arguments are those of `position_values()`.

        Returns:
            dict from the names of the parts to tensors `(...)`: of most
            losses, the loss itself by its name.
        """
        return {
            self.name: self.position_values(
                teacher_logits, student_logits, token_ids, sources, context
            )
        }

    @property
    def part_names(self) -> list[str]:
        """The keys of `part_values()`."""
        return [self.name]

    def _weigh_sources(self, values, sources):
        values = ops.cast(values, self.dtype)
        if self.source_weights is None:
            return values
        if sources is None:
            raise ValueError(
                f"{self.name!r} has `source_weights`, and needs to know who "
                "wrote each token: call `position_values()` with `sources`, "
                "then `reduce()`. Received: sources=None"
            )
        factors = ops.zeros_like(values)
        for author, source in AUTHORS.items():
            factor = self.source_weights.get(author, 1.0)
            factors = ops.where(ops.equal(sources, source), factor, factors)
        return weighted(values, factors)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss at each position, from the logits alone."""
        return self.position_values(y_true, y_pred)

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
            return self.reduce(self.call(y_true, y_pred), sample_weight)

    def reduce(
        self, values: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Reduces the values of the positions by `reduction`.

        Args:
            values: float tensor `(batch, length)`.
            sample_weight: bool, int or float tensor `(batch, length)`, the
                weight of each position. Defaults to `None`, 1 for each.

        Returns:
            A scalar, or a tensor `(batch, length)` if `reduction` is `"none"`.
        """
        values = ops.cast(values, self.dtype)
        if sample_weight is None:
            sample_weight = ops.ones_like(values)
        sample_weight = _check_sample_weight(sample_weight, values.shape)
        values = weighted(values, self.position_weights(sample_weight))
        return values if self.reduction in ("none", None) else ops.sum(values)

    def position_weights(self, sample_weight: Tensor) -> Tensor:
        """Returns the factor with which each position enters the sum.

        `reduce(values, sample_weight)` is `sum(values * weights)` with these
        weights. They do not depend on the values, so that the gradient of some
        positions can be computed before the others are known.

        In one of several replicas (`tf.distribute`, `torchrun`), means are over
        the batch of all, so that their sum is the loss of one device.

        Args:
            sample_weight: bool, int or float tensor `(batch, length)`.

        Returns:
            A tensor `(batch, length)`, in the dtype of the loss.
        """
        weights = ops.cast(sample_weight, self.dtype)
        if self.reduction == "token_mean":
            total = sum_over_replicas(ops.sum(weights))
            return weights / ops.maximum(total, 1.0)
        if self.reduction == "sequence_mean":
            # The maximum avoids 0 / 0 in a row without a response.
            totals = ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)
            num_rows = ops.cast(ops.size(totals), self.dtype)
            return weights / totals / sum_over_replicas(num_rows)
        return weights

    def batch_weight(self, sample_weight: Tensor) -> Tensor:
        """Returns the weight of a batch in the mean over several batches.

        It is the number of tokens for a `"token_mean"`, and the number of rows
        for other reductions.

        Args:
            sample_weight: bool, int or float tensor `(batch, length)`.

        Returns:
            A scalar, in the dtype of the loss.
        """
        weights = ops.cast(sample_weight, self.dtype)
        if self.reduction == "token_mean":
            return ops.sum(weights)
        return ops.cast(ops.shape(weights)[0], self.dtype)

    def get_config(self) -> dict:
        config = {
            **super().get_config(),
            "source_weights": self.source_weights,
            "dtype": self.dtype,
        }
        if self.name == self._default_name():
            del config["name"]
        return config

    def _default_name(self):
        """The registered name, or `None` to let Keras choose one."""
        names = {cls: name for name, cls in registry.classes.items()}
        return names.get(type(self))


registry = Registry(DistillationLoss, "loss", "keras_skd.losses")
registry.register()(DistillationLoss)


def get(
    identifier: str | dict | type | DistillationLoss,
) -> DistillationLoss:
    """Returns a loss from its name, class, config or itself.

    Raises:
        ValueError: if no loss has that name, or it cannot be made without
            arguments.
        TypeError: if `identifier` is none of the above, or a Keras loss that
            is not for distillation.

    Example:

    ```python
    loss = keras_skd.losses.get("reverse_kl")
    loss = keras_skd.losses.get(keras_skd.losses.ReverseKL)
    ```
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    cls = identifier if isinstance(identifier, type) else type(identifier)
    if issubclass(cls, keras.losses.Loss) and not issubclass(
        cls, DistillationLoss
    ):
        raise TypeError(
            f"{cls.__name__} is a Keras loss, but not a distillation loss. "
            "Keras' losses do not know the response mask, and its "
            "`KLDivergence` clips probabilities at 1e-7, so that the student "
            "gets no gradient where it is most wrong. Use a loss of "
            '`keras_skd.losses`, such as "forward_kl", or subclass '
            f"`keras_skd.losses.DistillationLoss`. Received: {identifier!r}"
        )
    return registry.get(identifier)


def serialize(loss: DistillationLoss) -> dict:
    """Returns the config of a loss, which JSON can hold."""
    return registry.serialize(loss)


def deserialize(
    config: dict, custom_objects: dict | None = None
) -> DistillationLoss:
    """Returns the loss that a config describes.

    Args:
        config: dict, as `serialize()` returns it.
        custom_objects: dict from names to classes that are not registered with
            Keras. Defaults to `None`.

    Raises:
        TypeError: if the config describes a different kind of object.
    """
    return get(keras.saving.deserialize_keras_object(config, custom_objects))


def _check_source_weights(source_weights):
    if source_weights is None:
        return None
    if not isinstance(source_weights, dict):
        raise TypeError(
            '`source_weights` must be a dict such as `{"student": 0.5}`, or '
            f"`None`. Received: source_weights={source_weights!r}"
        )
    unknown = sorted(set(source_weights) - set(AUTHORS), key=str)
    if unknown:
        raise ValueError(
            f"The keys of `source_weights` must be among {list(AUTHORS)}. "
            f"Received: {unknown}"
        )
    return {
        author: check_number(f"source_weights[{author!r}]", weight, "[0, inf)")
        for author, weight in source_weights.items()
    }


def _check_sample_weight(sample_weight, shape):
    sample_weight = ops.convert_to_tensor(sample_weight)
    if shapes_differ(sample_weight.shape, shape):
        raise ValueError(
            "`sample_weight` must have one weight for each position. "
            f"Received: shape {tuple(sample_weight.shape)}, "
            f"for losses of shape {tuple(shape)}"
        )
    return sample_weight


def _zero_outside(sample_weight, x):
    """Replaces tokens or logits by 0 where the weight is 0."""
    mask = ops.cast(sample_weight, "bool")
    if len(x.shape) > len(mask.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.where(mask, x, ops.zeros_like(x))


def weighted(values, weights):
    """Returns `values * weights`, where zero times infinity is 0, not NaN."""
    return ops.where(weights == 0, 0.0, values) * weights


def shapes_differ(shape, other) -> bool:
    """Whether two shapes differ, as far as they are known."""
    return len(shape) != len(other) or any(
        a != b and a is not None and b is not None
        for a, b in zip(shape, other, strict=True)
    )
