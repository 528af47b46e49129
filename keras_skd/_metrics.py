"""What is reported of a rollout."""

import keras
from keras import ops

from keras_skd._source import Source


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
