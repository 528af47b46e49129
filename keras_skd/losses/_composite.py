from collections.abc import Sequence

from keras import ops
from keras import tree

from keras_skd._checks import check_number
from keras_skd.losses._distillation_loss import AUTHORS
from keras_skd.losses._distillation_loss import DistillationLoss
from keras_skd.losses._distillation_loss import get
from keras_skd.losses._distillation_loss import registry
from keras_skd.losses._distillation_loss import serialize


class _Composite(DistillationLoss):
    """A loss made of other losses, a list or a dict of them in `losses`."""

    losses: list | dict

    @property
    def needs_teacher(self) -> bool:
        return any(x.needs_teacher for x in tree.flatten(self.losses))

    @property
    def needs_token_log_probs(self) -> bool:
        return any(x.needs_token_log_probs for x in tree.flatten(self.losses))

    def prepare(self, *args, **kwargs) -> list | dict:
        return tree.map_structure(
            lambda loss: loss.prepare(*args, **kwargs), self.losses
        )

    def _parts(
        self, teacher_logits, student_logits, token_ids, sources, context
    ) -> list:
        """Returns the terms of the sum, in the order of `part_names`."""
        raise NotImplementedError

    def compute_values(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        return sum(
            self._parts(
                teacher_logits, student_logits, token_ids, sources, context
            )
        )

    def part_values(
        self,
        teacher_logits,
        student_logits,
        token_ids=None,
        sources=None,
        context=None,
    ):
        parts = self._parts(
            teacher_logits, student_logits, token_ids, sources, context
        )
        return {
            name: self._weigh_sources(part, sources)
            for name, part in zip(self.part_names, parts, strict=True)
        }


@registry.register("weighted_sum")
class WeightedSum(_Composite):
    """Weighted sum of losses.

    With losses `l_i` and factors `w_i`, at every position::

        loss = sum(w_i * l_i)

    Each loss keeps its own `temperature`, `top_k_targets` and
    `source_weights`. Their `reduction` has no effect, since the values of the
    positions are reduced once, after the sum.

    Args:
        losses: list of `keras_skd.losses.DistillationLoss`, or of anything
            that `keras_skd.losses.get` accepts, such as `"forward_kl"`.
        weights: list of floats, one for each loss. Defaults to `None`, 1 for
            each.
        **kwargs: see `keras_skd.losses.DistillationLoss`. `source_weights`
            apply to the whole sum.

    Example:

    A sum that contains `keras_skd.losses.CrossEntropy` also needs the tokens.

    ```python
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
        **kwargs,
    ):
        super().__init__(**kwargs)
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
        self.losses = [get(loss) for loss in losses]
        self.weights = [
            check_number(f"weights[{i}]", weight)
            for i, weight in enumerate(weights)
        ]

    @property
    def part_names(self) -> list[str]:
        names = [loss.name for loss in self.losses]
        counts = [names[:i].count(name) for i, name in enumerate(names)]
        return [
            f"{name}_{count + 1}" if count else name
            for name, count in zip(names, counts)
        ]

    def _parts(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        contexts = context or [None] * len(self.losses)
        parts = [
            loss.position_values(
                teacher_logits, student_logits, token_ids, sources, part
            )
            for loss, part in zip(self.losses, contexts, strict=True)
        ]
        return [
            weight * ops.cast(part, self.dtype)
            for weight, part in zip(self.weights, parts)
        ]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "losses": [serialize(loss) for loss in self.losses],
            "weights": self.weights,
        }


@registry.register("by_source")
class BySource(_Composite):
    """A different loss for each author of a token.

    With `source` the author of the predicted token, at every position::

        loss = {"student": student, "teacher": teacher, "data": data}[source]

    In Speculative Knowledge Distillation, the author of a token tells whether
    the teacher accepted the student's draft or replaced it. Other methods train
    on whole responses of either model. DistiLLM-2's losses (at a fixed `alpha`
    and with equal weights, as in its released code; its curricula are
    `keras_skd.losses.DistiLLM2`) are::

        BySource(teacher=SkewKL(0.1), student=SkewReverseKL(0.1))

    The teacher's replacements become labels with::

        BySource(teacher=CrossEntropy(), student=ForwardKL())

    Every loss is evaluated at every position, and one of the values chosen.
    Positions without a loss count as 0 in a mean. The `reduction` of the
    losses has no effect. The loss needs the `sources`: call
    `position_values()`, then `reduce()`.

    Args:
        student: a `keras_skd.losses.DistillationLoss`, or anything that
            `keras_skd.losses.get` accepts, such as `"forward_kl"`: the loss
            where the student wrote the token. Defaults to `None`, no loss
            there.
        teacher: likewise, where the teacher wrote it. Defaults to `None`.
        data: likewise, where it comes from the data. Defaults to `None`, the
            teacher's loss, or else the student's, so that responses of a
            validation set always have a loss.
        **kwargs: see `keras_skd.losses.DistillationLoss`.

    Example:

    ```python
    import numpy as np

    teacher_logits = keras.random.normal((1, 4, 32))
    student_logits = keras.random.normal((1, 4, 32))
    # The teacher accepted two drafts of the student and replaced the third.
    source = keras_skd.Source
    sources = np.array(
        [[source.STUDENT, source.STUDENT, source.TEACHER, source.PADDING]]
    )
    loss = keras_skd.losses.BySource(
        student="forward_kl", teacher=keras_skd.losses.SkewKL(alpha=0.2)
    )
    values = loss.position_values(
        teacher_logits, student_logits, sources=sources
    )
    loss.reduce(values, sample_weight=sources > source.PROMPT)
    ```

    References:
        - [Ko et al., 2025](https://arxiv.org/abs/2503.07067)
    """

    def __init__(
        self,
        student: DistillationLoss | str | dict | type | None = None,
        teacher: DistillationLoss | str | dict | type | None = None,
        data: DistillationLoss | str | dict | type | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if student is None and teacher is None and data is None:
            raise ValueError(
                "`BySource` needs a loss for at least one of `student`, "
                "`teacher` and `data`, such as "
                '`BySource(student="reverse_kl", teacher="forward_kl")`. '
                "Received: None for each"
            )
        self.student, self.teacher, self.data = (
            None if loss is None else get(loss)
            for loss in (student, teacher, data)
        )
        losses = {
            "student": self.student,
            "teacher": self.teacher,
            "data": self.data or self.teacher or self.student,
        }
        self.losses = {
            author: loss for author, loss in losses.items() if loss is not None
        }

    @property
    def part_names(self) -> list[str]:
        return list(self.losses)

    def _parts(
        self, teacher_logits, student_logits, token_ids, sources, context
    ):
        if sources is None:
            raise ValueError(
                "`BySource` needs to know who wrote each token: call "
                "`position_values()` with `sources`, then `reduce()`. "
                "Received: sources=None"
            )
        context = context or {}
        return [
            ops.where(
                ops.equal(sources, AUTHORS[author]),
                loss.position_values(
                    teacher_logits,
                    student_logits,
                    token_ids,
                    sources,
                    context.get(author),
                ),
                ops.zeros_like(sources, dtype=self.dtype),
            )
            for author, loss in self.losses.items()
        ]

    def get_config(self) -> dict:
        config = super().get_config()
        for author in AUTHORS:
            loss = getattr(self, author)
            config[author] = None if loss is None else serialize(loss)
        return config
