import collections

import keras
import keras_hub

from keras_skd._checks import check_integer
from keras_skd.callbacks._checks import check_distiller
from keras_skd.callbacks._student_text import StudentText


class GenerationMetrics(keras.callbacks.Callback):
    """Scores what the student writes on held-out prompts, after each epoch.

    The scores are added to the logs as `val_...`: `fit` shows them, its
    history has them, and callbacks that come after this one can monitor them.

    Args:
        x: dict of `"prompts"` and `"responses"`, lists of strings: the
            held-out prompts, and what should be written.
        metrics: list, or one, of:

            * `"exact_match"`, the share of responses that are the reference,
              apart from white space around them, as `val_exact_match`;
            * a Keras metric of strings, such as `keras_hub.metrics.RougeL()`,
              `RougeN`, `Bleu` or `EditDistance` (of words), as `val_` and its
              name. A metric with several results adds each by its name:
              `val_rouge_l_f1_score`;
            * a function from the list of references and that of the responses
              to a number, as `val_` and its name, or to a dict of numbers, as
              `val_` and the key.

            Defaults to `"exact_match"`. KerasHub's metrics need TensorFlow,
            and ROUGE the package `rouge-score`.
        sampler: a `keras_hub.samplers.Sampler` or its name, how the student
            draws. Defaults to `"greedy"`, which is the same every time.
        max_length: int. Number of tokens in a prompt and its response
            together. Defaults to `None`, the distiller's `sequence_length`.
        batch_size: int. How many responses are written at once. Defaults to
            `32`.
        every: int. After how many epochs it scores again. Defaults to `1`.
        seed: int. Of a sampler that has no seed of its own. Defaults to `0`.

    Attributes:
        responses: list of strings, what the student wrote last.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of its range, or `x` lacks something.

    Example:

    ```python
    def num_characters(references, responses):
        return sum(map(len, responses)) / len(responses)

    scores = keras_skd.callbacks.GenerationMetrics(
        {"prompts": prompts, "responses": responses},
        metrics=["exact_match", keras_hub.metrics.Bleu(), num_characters],
    )
    history = distiller.fit(
        {"prompts": prompts},
        epochs=2,
        callbacks=[
            scores,
            keras.callbacks.EarlyStopping("val_bleu", mode="max", patience=3),
        ],
    )
    history.history["val_bleu"]
    ```
    """

    def __init__(
        self,
        x: dict,
        metrics: str | list = "exact_match",
        *,
        sampler: str | keras_hub.samplers.Sampler = "greedy",
        max_length: int | None = None,
        batch_size: int = 32,
        every: int = 1,
        seed: int | None = 0,
    ):
        super().__init__()
        self.prompts, self.references = _check_data(x)
        self.metrics = _check_metrics(metrics)
        self.every = check_integer("every", every, minimum=1)
        self._generate = StudentText(sampler, max_length, batch_size, seed)
        self.responses: list = []

    def on_train_begin(self, logs=None):
        distiller = check_distiller(self, self.model)
        if distiller.preprocessor is None:
            raise ValueError(
                "`GenerationMetrics` scores text: give the `Distiller` or its "
                "student a `preprocessor`. Received: preprocessor=None"
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every or logs is None:
            return
        self.responses = self._generate(self.model, self.prompts)
        for metric in self.metrics:
            scores = _score(metric, self.references, self.responses)
            logs.update({f"val_{name}": x for name, x in scores.items()})


def exact_match(references, responses):
    """The share of responses that are the reference, white space apart."""
    pairs = list(zip(references, responses, strict=True))
    return sum(r.strip() == t.strip() for r, t in pairs) / len(pairs)


def _check_data(x):
    if not isinstance(x, dict) or not {"prompts", "responses"} <= x.keys():
        raise ValueError(
            '`x` must be a dict of "prompts" and "responses", lists of '
            f"strings. Received: {x!r:.60}"
        )
    columns = [list(x[key]) for key in ("prompts", "responses")]
    lengths = [len(column) for column in columns]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise ValueError(
            '`x` must have as many "responses" as "prompts", and at least '
            f"one. Received: {lengths[0]} prompts and {lengths[1]} responses"
        )
    for key, column in zip(("prompts", "responses"), columns):
        for i, text in enumerate(column):
            if not isinstance(text, str):
                raise TypeError(
                    f'"{key}" of `x` must be strings. Received in row {i}: '
                    f"{text!r:.60} of type {type(text).__name__}"
                )
    return columns


def _check_metrics(metrics):
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


def _score(metric, references, responses) -> dict:
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
        # A list without any string has no type: an empty one has no words.
        return [
            [text.split() or [""] for text in texts]
            for texts in (references, responses)
        ]
    return list(references), list(responses)
