import keras
import keras_hub

from keras_skd._checks import check_integer
from keras_skd._preprocessing import pack_generate_inputs
from keras_skd._scoring import StudentText
from keras_skd._scoring import check_metrics
from keras_skd._scoring import score_texts
from keras_skd.callbacks._checks import check_distiller


class GenerationMetrics(keras.callbacks.Callback):
    """Scores the student's responses to held-out prompts after each epoch.

    The scores are added to the logs as `val_...`: `fit` shows them, its
    history has them, and callbacks that come after this one can monitor them.

    Args:
        x: dict of `"prompts"` and `"responses"`, lists of strings: the
            held-out prompts and their references.
        metrics: list, or one, of:

            * `"exact_match"`, the share of responses equal to the reference,
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
            samples. Defaults to `"greedy"`.
        max_length: int. Number of tokens in a prompt and its response
            together. Defaults to `None`, the distiller's `sequence_length`.
        batch_size: int. The number of responses written at once. Defaults to
            `32`.
        every: int. The number of epochs between two scores. Defaults to `1`.
        seed: int. The seed of a sampler that has no seed of its own. Defaults
            to `0`.

    Attributes:
        responses: list of strings, the student's last responses.

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
        self.metrics = check_metrics(metrics)
        self.every = check_integer("every", every, minimum=1)
        self.max_length = max_length
        self._generate = StudentText(sampler, batch_size, seed)
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
        batch, _ = pack_generate_inputs(
            self.prompts, self.model._pack, self.max_length
        )
        self.responses = self._generate(self.model, batch)
        for metric in self.metrics:
            scores = score_texts(metric, self.references, self.responses)
            logs.update({f"val_{name}": x for name, x in scores.items()})


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
