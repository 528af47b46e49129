"""Batches of token ids that have different lengths, or different sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_skd
from keras_skd._preprocessing import Packer
from tests.support import bad_input

# Rows and columns of each batch. The last is smaller. On TensorFlow, Keras
# infers the lengths from the first two batches of a `PyDataset`.
SHAPES = [(2, 4), (2, 5), (2, 5), (1, 4)]


def _batches(responses):
    rng = np.random.default_rng(0)
    batches = []
    for rows, length in SHAPES:
        columns = np.arange(length)
        batch = {
            "token_ids": rng.integers(4, 32, (rows, length)).astype("int32"),
            "padding_mask": np.tile(columns < 2, (rows, 1)),
        }
        if responses:
            batch["padding_mask"] = np.ones((rows, length), "bool")
            batch["response_mask"] = np.tile(columns >= 2, (rows, 1))
        batches.append(batch)
    return batches


class Batches(keras.utils.PyDataset):
    def __init__(self, batches, **kwargs):
        super().__init__(**kwargs)
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def _as_tf_data(batches):
    signature = {
        key: tf.TensorSpec((None, None), value.dtype)
        for key, value in batches[0].items()
    }
    return tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=signature
    )


STREAMS = {
    "tf.data": _as_tf_data,
    "PyDataset": Batches,
    "PyDataset of workers": lambda x: Batches(x, workers=2),
}


def _distiller(rollout, **kwargs):
    distiller = keras_skd.Distiller(
        bad_input.llama(seed=1),
        bad_input.llama(seed=2),
        rollout,
        **kwargs,
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    return distiller


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_fit_and_evaluate(make):
    batches = _batches(responses=True)
    distiller = _distiller("supervised")
    losses = [distiller.evaluate(batch, verbose=0)[0] for batch in batches]
    expected = np.average(losses, weights=[rows for rows, _ in SHAPES])
    history = distiller.fit(
        make(batches), validation_data=make(batches), epochs=2, verbose=0
    ).history
    for losses in (history["loss"], history["val_loss"]):
        assert losses == pytest.approx([expected] * 2, rel=1e-4)


@pytest.mark.parametrize("make", [_as_tf_data, Batches])
def test_responses_fill_the_rows_of_their_batch(make):
    distiller = _distiller("on_policy", stop_token_ids=())
    history = distiller.fit(make(_batches(responses=False)), verbose=0).history
    lengths = np.repeat(*np.transpose([(n - 2, rows) for rows, n in SHAPES]))
    assert history["response_length"] == pytest.approx([lengths.mean()])


def test_shorter_batches_are_padded_to_the_length_of_the_distiller():
    distiller = _distiller("on_policy", stop_token_ids=(), sequence_length=9)
    data = _as_tf_data(_batches(responses=False))
    history = distiller.fit(data, verbose=0).history
    assert history["response_length"] == [7.0]


def test_padding_adds_nothing_to_prompts_of_the_teacher():
    batch = _batches(responses=True)[0]
    batch["teacher_token_ids"] = np.array([[5, 6, 7, 0, 0], [8, 0, 0, 0, 0]])
    batch["teacher_padding_mask"] = batch["teacher_token_ids"] > 0
    packed = Packer(None, 6)(batch)
    for key, value in batch.items():
        length = 12 if key.startswith("teacher_") else 6
        padding = np.zeros((2, length - value.shape[1]))
        expected = np.concatenate([value, padding], axis=1)
        np.testing.assert_array_equal(packed[key], expected)
