"""Metrics of generated text."""

import collections

import keras
import keras_hub


def exact_match(references, responses):
    """The share of responses equal to the reference, up to white space."""
    pairs = list(zip(references, responses, strict=True))
    return sum(r.strip() == t.strip() for r, t in pairs) / len(pairs)


def check_metrics(metrics) -> list:
    """Returns metrics of text, each with a name of its own.

    Args:
        metrics: list, or one, of `"exact_match"`, Keras metrics of strings and
            functions from references and responses.
    """
    if not isinstance(metrics, (list, tuple)):
        metrics = [metrics]
    checked = []
    for metric in metrics:
        if isinstance(metric, str) and metric == "exact_match":
            metric = exact_match
        if not isinstance(metric, keras.metrics.Metric):
            if isinstance(metric, (str, type)) or not callable(metric):
                raise ValueError(
                    "`metrics` must be 'exact_match', Keras metrics such as "
                    "`keras_hub.metrics.Bleu()`, or functions from references "
                    f"and responses to a number. Received: {metric!r}"
                )
        checked.append(metric)
    counts = collections.Counter(map(_name, checked))
    twice = [name for name, count in counts.items() if count > 1]
    if twice or not checked:
        raise ValueError(
            "`metrics` must have at least one metric, and each a name of its "
            f"own. Received: {[_name(metric) for metric in checked]}"
        )
    return checked


def _name(metric):
    name = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    return (name or type(metric).__name__).replace("-", "_")


def score_texts(metric, references, responses) -> dict:
    """The results of a metric, by name."""
    name, prefix = _name(metric), ""
    if isinstance(metric, keras.metrics.Metric):
        metric.reset_state()
        metric.update_state(*_as_read_by(metric, references, responses))
        result, prefix = metric.result(), f"{name}_"
    else:
        result = metric(list(references), list(responses))
    if not isinstance(result, dict):
        return {name: float(result)}
    return {f"{prefix}{key}": float(value) for key, value in result.items()}


def _as_read_by(metric, references, responses):
    """References and responses in the form that a metric asks for."""
    if isinstance(metric, keras_hub.metrics.Bleu):
        return [[text] for text in references], list(responses)
    if isinstance(metric, keras_hub.metrics.EditDistance):
        # An empty list has no dtype: a text without words is `[""]`.
        return [
            [text.split() or [""] for text in texts]
            for texts in (references, responses)
        ]
    return list(references), list(responses)
