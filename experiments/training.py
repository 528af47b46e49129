"""What teachers, initial students and distilled students share."""

import keras
import numpy as np

import keras_skd


def batches(pairs, num_steps, batch_size, seed):
    """The rows of a training in their order, as columns.

    Each pass over the pairs has an order of its own, and the last rows of a
    pass share a batch with the first of the next. So a training of few pairs
    has as many steps, of as many rows, as one of many, and the same seed gives
    every method the same prompts in every step.
    """
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < num_steps * batch_size:
        order += generator.permutation(len(pairs)).tolist()
    rows = [pairs[i] for i in order[: num_steps * batch_size]]
    return as_columns(rows)


def as_columns(pairs):
    """Pairs as the data of a `keras_skd.Distiller`."""
    return {
        "prompts": [pair.prompt for pair in pairs],
        "responses": [pair.response for pair in pairs],
    }


def fine_tune(
    model, pairs, num_steps, batch_size, learning_rate, seed, backup=None
):
    """Trains a model on references, with a cosine decay of the rate.

    With the path of a folder as `backup`, a training that was killed goes on
    there.
    """
    distiller = keras_skd.Distiller(None, model, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10,
        num_steps,
        warmup_target=learning_rate,
        warmup_steps=num_steps // 20,
    )
    distiller.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    distiller.fit(
        batches(pairs, num_steps, batch_size, seed),
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[] if backup is None else [_backup(backup)],
    )


def _backup(folder):
    return keras_skd.callbacks.BackupAndRestore(folder, save_freq=200)


class Writer:
    """Writes greedy responses, compiled once.

    Args:
        model: a `keras_hub.models.CausalLM`.
        batch_size: int.
        sequence_length: int. Defaults to `None`, the preprocessor's.
    """

    def __init__(self, model, batch_size=250, sequence_length=None):
        self._distiller = keras_skd.Distiller(
            None, model, sequence_length=sequence_length
        )
        self._distiller.compile()
        self._batch_size = batch_size

    def __call__(self, pairs):
        outputs = []

        def keep(references, responses):
            outputs.extend(responses)
            return 0.0

        self._distiller.score(
            as_columns(pairs), metrics=[keep], batch_size=self._batch_size
        )
        return outputs
