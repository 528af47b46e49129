"""The metrics of rollouts, and of the parts of the loss."""

import keras
from keras import ops

from keras_skd._objective.updates import AGE
from keras_skd._source import Source
from keras_skd.decoding._records import DRAFT_POSITIONS
from keras_skd.decoding._records import REJECTED_RANKS
from keras_skd.losses._distillation_loss import AUTHORS

# The values of `compile(rollout_metrics=...)`.
ACCEPTANCE_BY_DRAFT_POSITION = "acceptance_by_draft_position"
ACCEPTANCE_BY_RESPONSE_POSITION = "acceptance_by_response_position"
TOKENS_PER_TEACHER_PASS = "tokens_per_teacher_pass"
REJECTED_RANK = "rejected_rank"
KL_BY_SOURCE = "kl_by_source"
LOSS_PARTS = "loss_parts"
# Of `compile(accumulate_gradients=False)`.
ROLLOUT_AGE = "rollout_age"
_SPECULATIVE = (
    ACCEPTANCE_BY_DRAFT_POSITION,
    ACCEPTANCE_BY_RESPONSE_POSITION,
    TOKENS_PER_TEACHER_PASS,
    REJECTED_RANK,
)
_ALL = (*_SPECULATIVE, KL_BY_SOURCE, LOSS_PARTS)
# The end of the first bucket of positions in a response, and of the last in
# rows whose length is not known.
_FIRST_END, _LAST_END = 8, 1024


def rollout_metrics(is_speculative: bool) -> list:
    """The metrics of a rollout, before any batch.

    `acceptance_rate` (accepted over tested drafts, of a speculative rollout),
    `teacher_token_fraction` (of the responses) and `response_length` (in
    tokens).
    """
    names = ["teacher_token_fraction", "response_length"]
    if is_speculative:
        names.insert(0, "acceptance_rate")
    return [keras.metrics.Mean(name=name) for name in names]


def update_rollout_metrics(metrics: list, rollout: dict):
    """Adds one batch to the metrics."""
    response = ops.cast(rollout["response_mask"], "float32")
    sources = rollout["sources"]
    for metric in metrics:
        if metric.name == "acceptance_rate":
            accepted = ops.cast(sources == Source.STUDENT, "float32")
            metric.update_state(accepted, rollout["draft_mask"])
        elif metric.name == "teacher_token_fraction":
            by_teacher = ops.cast(sources == Source.TEACHER, "float32")
            metric.update_state(by_teacher, response)
        else:
            metric.update_state(ops.sum(response, axis=1))


class NamedMeans(keras.metrics.Metric):
    """Several means, each reported under its own name.

    A mean without any value is NaN.

    Args:
        names: list of strings.
        geometric: bool. Whether the values are logarithms, whose mean is
            reported as the geometric mean. Defaults to `False`.
    """

    def __init__(self, names, geometric=False):
        super().__init__(name="_".join(names) or "none", dtype="float32")
        self.names = names
        self.geometric = geometric
        self.totals, self.counts = (
            self.add_variable((len(names),), "zeros", "float32", name=name)
            for name in ("totals", "counts")
        )

    def update_state(self, totals, counts):
        """Adds sums and the numbers of what was summed, `(len(names),)`."""
        self.totals.assign_add(ops.cast(totals, "float32"))
        self.counts.assign_add(ops.cast(counts, "float32"))

    def result(self):
        totals = ops.convert_to_tensor(self.totals)
        counts = ops.convert_to_tensor(self.counts)
        is_some = counts > 0
        means = ops.where(
            is_some, totals / ops.where(is_some, counts, 1.0), float("nan")
        )
        if self.geometric:
            means = ops.exp(means)
        return {name: means[i] for i, name in enumerate(self.names)}


class AdditionalMetrics:
    """The metrics that `compile(rollout_metrics=...)` asks for.

    Args:
        groups: list of strings. Defaults to `None`, no metrics.
        rollout: the `keras_skd.rollouts.Rollout`.
        sequence_length: int or `None`.
        with_age: bool. Whether the mean number of updates since the writing of
            a row is reported. Defaults to `False`.

    Attributes:
        with_parts, with_kl: bool. What an `Objective` has to measure.
        records: list of strings, what a rollout has to record.
        metrics: list of `keras.metrics.Metric`s.
    """

    def __init__(
        self, groups=None, rollout=None, sequence_length=None, with_age=False
    ):
        self.groups = check_groups(groups, rollout)
        self.with_parts = LOSS_PARTS in self.groups
        self.with_kl = KL_BY_SOURCE in self.groups
        self.records = []
        self._of_rollouts, self._of_loss = {}, {}
        if with_age:
            self._of_rollouts[ROLLOUT_AGE] = NamedMeans([ROLLOUT_AGE])
        if ACCEPTANCE_BY_DRAFT_POSITION in self.groups:
            self.records.append(DRAFT_POSITIONS)
            self._draft_buckets = _buckets(1, rollout._longest_draft)
            self._of_rollouts[ACCEPTANCE_BY_DRAFT_POSITION] = NamedMeans(
                _bucket_names("acceptance_rate_draft", self._draft_buckets)
            )
        if ACCEPTANCE_BY_RESPONSE_POSITION in self.groups:
            last = sequence_length or _LAST_END
            self._token_buckets = _buckets(_FIRST_END, last)
            self._of_rollouts[ACCEPTANCE_BY_RESPONSE_POSITION] = NamedMeans(
                _bucket_names("acceptance_rate_token", self._token_buckets)
            )
        if TOKENS_PER_TEACHER_PASS in self.groups:
            self._of_rollouts[TOKENS_PER_TEACHER_PASS] = NamedMeans(
                [TOKENS_PER_TEACHER_PASS]
            )
        if REJECTED_RANK in self.groups:
            self.records.append(REJECTED_RANKS)
            self._of_rollouts[REJECTED_RANK] = NamedMeans(
                [REJECTED_RANK], geometric=True
            )
        if self.with_kl:
            names = [f"kl_{author}" for author in AUTHORS]
            self._of_loss[KL_BY_SOURCE] = NamedMeans(names)

    def name_parts(self, names):
        """Sets the names of the parts of the loss, if they are asked for."""
        if self.with_parts:
            names = [f"{name}_loss" for name in names]
            self._of_loss[LOSS_PARTS] = NamedMeans(names)

    @property
    def metrics(self):
        return [*self._of_rollouts.values(), *self._of_loss.values()]

    @property
    def rollout_names(self):
        """The names that are only in the logs of written rollouts."""
        return [n for m in self._of_rollouts.values() for n in m.names]

    def update_of_rollout(self, rollout: dict):
        """Adds a written rollout."""
        for group, metric in self._of_rollouts.items():
            values = getattr(self, f"_{group}")(rollout)
            if values is not None:
                metric.update_state(*values)

    def update_of_loss(self, measured: dict, weight):
        """Adds the measurements of an `Objective`.

        Args:
            measured: dict, see `ChunkedLoss.measure`.
            weight: scalar, the weight of the batch in the mean of the loss.
        """
        if self.with_kl:
            self._of_loss[KL_BY_SOURCE].update_state(
                measured["kl"], measured["kl_tokens"]
            )
        if self.with_parts:
            parts, weight = measured["parts"], ops.cast(weight, "float32")
            self._of_loss[LOSS_PARTS].update_state(
                parts * weight, ops.ones_like(parts) * weight
            )

    def _rollout_age(self, rollout):
        # An evaluation reads what it has just written.
        age = rollout.get(AGE, ops.zeros_like(rollout["token_ids"][:, 0]))
        return ops.sum(age)[None], ops.sum(ops.ones_like(age))[None]

    def _acceptance_by_draft_position(self, rollout):
        positions = rollout.get(DRAFT_POSITIONS)
        if positions is None:
            return None
        return _by_bucket(rollout, positions, self._draft_buckets)

    def _acceptance_by_response_position(self, rollout):
        response = ops.cast(rollout["response_mask"], "int32")
        positions = ops.cumsum(response, axis=1) * response
        return _by_bucket(rollout, positions, self._token_buckets)

    def _tokens_per_teacher_pass(self, rollout):
        calls = rollout.get("num_teacher_calls")
        if calls is None:
            return None
        tokens = ops.sum(ops.cast(rollout["response_mask"], "int32"), axis=1)
        # In a mixture, the rows of other rollouts have no teacher pass.
        tokens = ops.where(calls > 0, tokens, 0)
        return ops.sum(tokens)[None], ops.sum(calls)[None]

    def _rejected_rank(self, rollout):
        ranks = rollout.get(REJECTED_RANKS)
        if ranks is None:
            return None
        is_rejected = ops.cast(ranks > 0, "float32")
        logs = ops.log(ops.cast(ops.maximum(ranks, 1), "float32"))
        return ops.sum(logs)[None], ops.sum(is_rejected)[None]


def check_groups(groups, rollout) -> list:
    """Returns the names in `rollout_metrics`, each of which is known.

    Raises:
        TypeError: if they are not a list of strings.
        ValueError: if one is not known, or not one of such a rollout.
    """
    groups = [] if groups is None else groups
    groups = [groups] if isinstance(groups, str) else groups
    if not isinstance(groups, (list, tuple)):
        raise TypeError(
            f"`rollout_metrics` must be a list of some of {_ALL}. Received: "
            f"{groups!r} of type {type(groups).__name__}"
        )
    for group in groups:
        if group not in _ALL:
            raise ValueError(
                f"`rollout_metrics` must be a list of some of {_ALL}. "
                f"Received: {group!r}"
            )
        if group in _SPECULATIVE and not rollout.is_speculative:
            raise ValueError(
                f"`rollout_metrics` has {group!r}, which is of rollouts that "
                "draft, such as `keras_skd.rollouts.Speculative`. Received: "
                f"rollout={rollout!r}"
            )
    return list(dict.fromkeys(groups))


def _buckets(first_end: int, last: int) -> list:
    """Ranges of positions from 1, each about twice as long as all before."""
    start, end = 1, first_end
    buckets: list[tuple[int, int | None]] = []
    while start <= max(last, 1):
        buckets.append((start, end))
        start, end = end + 1, 2 * end
    # The last range is open, so that every position is counted.
    buckets[-1] = (buckets[-1][0], None)
    return buckets


def _bucket_names(prefix, buckets):
    return [
        f"{prefix}_{start}" if start == end else f"{prefix}_{start}_{end}"
        for start, end in (
            (start, "up" if end is None else end) for start, end in buckets
        )
    ]


def _by_bucket(rollout, positions, buckets):
    """Sums of accepted drafts and of tested ones, by their positions."""
    tested = ops.cast(rollout["draft_mask"], "bool")
    accepted = tested & (rollout["sources"] == Source.STUDENT.value)
    totals, counts = [], []
    for start, end in buckets:
        here = positions >= start
        if end is not None:
            here = here & (positions <= end)
        totals.append(ops.sum(ops.cast(accepted & here, "float32")))
        counts.append(ops.sum(ops.cast(tested & here, "float32")))
    return ops.stack(totals), ops.stack(counts)
