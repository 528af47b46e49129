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
    """A loss made of other losses, a list or a dict of them in `losses`.

    Each part keeps its own `temperature`, `top_k_targets` and
    `source_weights`; its `reduction` has no effect.
    """

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
        **kwargs: see `keras_skd.losses.DistillationLoss`. `source_weights`
            apply to the whole sum.

    Example:

    With `keras_skd.losses.CrossEntropy` in it, a sum needs the tokens as well.

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

    In Speculative Knowledge Distillation, student and teacher write one
    response in turn, and the author of a token says something about it: that
    the teacher accepted it, or that it had to step in. Other methods train on
    whole responses of either. So, with DistiLLM-2's losses (at a fixed `alpha`
    and with equal weights, as its released code trains; its curricula are
    `keras_skd.losses.DistiLLM2`)::

        BySource(teacher=SkewKL(0.1), student=SkewReverseKL(0.1))

    or with the teacher's corrections as labels::

        BySource(teacher=CrossEntropy(), student=ForwardKL())

    Every loss is evaluated at every position, and one of the values chosen.
    Positions without a loss count as 0 in a mean. The `reduction` of the
    losses has no effect. The loss needs the `sources`: call
    `position_values()`, then `reduce()`.

    Args:
        student: a `keras_skd.losses.DistillationLoss`, or whatever
            `keras_skd.losses.get` takes for one, such as `"forward_kl"`: the
            loss where the student wrote the token. Defaults to `None`, no
            loss there.
        teacher: likewise, where the teacher wrote it. Defaults to `None`.
        data: likewise, where it comes from a data set. Defaults to `None`,
            the teacher's loss, or else the student's, so that a validation
            set, all of whose responses are from the data, always has a loss.
        **kwargs: see `keras_skd.losses.DistillationLoss`.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_skd

    teacher_logits = keras.random.normal((1, 4, 32))
    student_logits = keras.random.normal((1, 4, 32))
    # The teacher accepted two drafts of the student, then stepped in.
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
