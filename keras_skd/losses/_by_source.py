import keras
from keras import ops

from keras_skd.losses import _serialization as serialization
from keras_skd.losses._distillation_loss import SOURCES
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._log_space import Tensor


@keras.saving.register_keras_serializable(package="keras_skd")
class BySource(DistillationLoss):
    """Another loss at each position, by who wrote the token there.

    With `source` the one who wrote the predicted token, at every position::

        loss = {"student": student, "teacher": teacher, "data": data}[source]

    In Speculative Knowledge Distillation student and teacher write one
    response in turn, and which of them wrote a token says something about it:
    that the teacher lets it stand, or that it had to step in. Other methods
    train on whole responses of either. So, with DistiLLM-2's losses (at a
    fixed `alpha` and with equal weights, as its released code trains; its
    curricula are `keras_skd.losses.DistiLLM2`)::

        BySource(teacher=SkewKL(0.1), student=SkewReverseKL(0.1))

    or with the teacher's corrections as labels::

        BySource(teacher=CrossEntropy(), student=ForwardKL())

    Every loss is evaluated at every position, and one of the values chosen.
    Positions without a loss count as 0 in a mean. The `reduction` of the
    losses has no effect.

    Args:
        student: a `keras_skd.losses.DistillationLoss`, or whatever
            `keras_skd.losses.get` takes for one, such as `"forward_kl"`: the
            loss where the student wrote the token. Defaults to `None`, no
            loss there.
        teacher: likewise, where the teacher wrote it. Defaults to `None`.
        data: likewise, where it comes from a data set. Defaults to `None`,
            the teacher's loss, or else the student's: a validation set, whose
            responses are all from the data, is never scored 0 for the want of
            a loss.
        source_weights: dict. A factor for the loss at each position, by who
            wrote the token there, as in
            `keras_skd.losses.DistillationLoss`. Defaults to `None`.
        reduction: string, as in `keras_skd.losses.DistillationLoss`. Defaults
            to `"sequence_mean"`.
        name: string. The name of the loss. Defaults to `"by_source"`.
        dtype: string. The dtype of the result. Defaults to `None`, which is
            float32.

    Call arguments:
        This loss cannot be called on logits alone, since they do not say who
        wrote what: call `position_values()`, then `reduce()`.

    Raises:
        ValueError: If no loss is given.
        TypeError: If one of the losses is not a distillation loss.

    Example:

    ```python
    import keras
    import keras_skd

    teacher_logits = keras.random.normal((1, 4, 32))
    student_logits = keras.random.normal((1, 4, 32))
    # The student's draft stood twice, then the teacher stepped in.
    sources = keras.ops.array([[2, 2, 3, 0]])
    loss = keras_skd.losses.BySource(
        student="forward_kl", teacher=keras_skd.losses.SkewKL(alpha=0.2)
    )
    values = loss.position_values(
        teacher_logits, student_logits, sources=sources
    )
    loss.reduce(values, sample_weight=sources > 1)
    ```

    References:
        - [Ko et al., 2025](https://arxiv.org/abs/2503.07067)
    """

    def __init__(
        self,
        student: DistillationLoss | str | dict | type | None = None,
        teacher: DistillationLoss | str | dict | type | None = None,
        data: DistillationLoss | str | dict | type | None = None,
        source_weights: dict[str, float] | None = None,
        reduction: str | None = "sequence_mean",
        name: str = "by_source",
        dtype: str | None = None,
    ):
        super().__init__(
            source_weights=source_weights,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        given = {"student": student, "teacher": teacher, "data": data}
        self.losses = {
            source: serialization.get(loss)
            for source, loss in given.items()
            if loss is not None
        }
        if self.losses and data is None:
            default = "student" if teacher is None else "teacher"
            self.losses["data"] = self.losses[default]
        if not self.losses:
            raise ValueError(
                "`BySource` needs a loss for at least one of `student`, "
                "`teacher` and `data`. Received: None for each"
            )

    @property
    def needs_teacher(self) -> bool:
        return any(loss.needs_teacher for loss in self.losses.values())

    @property
    def needs_token_log_probs(self) -> bool:
        return any(loss.needs_token_log_probs for loss in self.losses.values())

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.position_values(y_true, y_pred)

    def prepare(self, *args, **kwargs) -> dict:
        return {
            source: loss.prepare(*args, **kwargs)
            for source, loss in self.losses.items()
        }

    def position_values(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        token_ids: Tensor | None = None,
        sources: Tensor | None = None,
        context: dict | None = None,
    ) -> Tensor:
        if sources is None:
            raise ValueError(
                "`BySource` needs to know who wrote each token: call "
                "`position_values()` with `sources`, then `reduce()`. "
                "Received: sources=None"
            )
        context = context or {}
        values = ops.zeros_like(sources, dtype=self.dtype)
        for source, loss in self.losses.items():
            values = ops.where(
                ops.equal(sources, SOURCES[source]),
                loss.position_values(
                    teacher_logits,
                    student_logits,
                    token_ids,
                    sources,
                    context.get(source),
                ),
                values,
            )
        return self._apply_source_weights(values, sources)

    def get_config(self) -> dict:
        config = super().get_config()
        # These are the parts' own.
        del config["temperature"], config["top_k_targets"]
        config.update(
            {
                source: serialization.serialize(loss)
                for source, loss in self.losses.items()
            }
        )
        return config
