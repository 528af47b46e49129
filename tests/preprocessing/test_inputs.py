import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import prepare
from tests.support import tokenizers
from tests.support.rows import LENGTH
from tests.support.rows import PROMPTS
from tests.support.rows import RESPONSES
from tests.support.rows import assert_same
from tests.support.rows import expected_rows


def _as_dataset(columns, batch_size):
    return tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)


class Batches(keras.utils.PyDataset):
    def __init__(self, columns, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.columns = columns
        self.batch_size = batch_size

    def __len__(self):
        rows = len(next(iter(self.columns.values())))
        return -(-rows // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return {key: value[rows] for key, value in self.columns.items()}


STRING_INPUTS = {
    "tuples": tuple,
    "str arrays": np.array,
    "object arrays": lambda x: np.array(x, dtype=object),
    "bytes arrays": lambda x: np.array([v.encode() for v in x]),
    "lists of bytes": lambda x: [v.encode() for v in x],
    "tensors": tf.constant,
}
TOKEN_INPUTS = {
    "lists": np.ndarray.tolist,
    "int64": lambda x: x.astype("int64"),
    "uint16": lambda x: x.astype("uint16"),
    "TensorFlow": tf.constant,
    "the backend": keras.ops.convert_to_tensor,
}


@pytest.mark.parametrize("convert", STRING_INPUTS.values(), ids=STRING_INPUTS)
def test_columns_of_strings(convert):
    preprocessor = tokenizers.gpt2(sequence_length=LENGTH)
    data = {"prompts": convert(PROMPTS), "responses": convert(RESPONSES)}
    packed, keys = prepare(data, Packer(preprocessor, LENGTH))
    assert_same(packed, expected_rows(preprocessor, PROMPTS, RESPONSES))
    assert keys == tuple(packed)


@pytest.mark.parametrize("convert", TOKEN_INPUTS.values(), ids=TOKEN_INPUTS)
@pytest.mark.parametrize("sequence_length", [None, LENGTH])
def test_columns_of_token_ids(convert, sequence_length):
    expected = expected_rows(tokenizers.gpt2(), PROMPTS, RESPONSES)
    data = {key: convert(value) for key, value in expected.items()}
    packed, keys = prepare(data, Packer(None, sequence_length))
    assert_same(packed, expected)
    assert keys == ("token_ids", "padding_mask", "response_mask")


# Batches of 2 from 5 rows: the last one is smaller.
BATCHED = {
    "tf.data": _as_dataset,
    "PyDataset": Batches,
    "PyDataset of workers": lambda x, batch_size: Batches(
        x, batch_size, workers=2, max_queue_size=3
    ),
}


@pytest.mark.parametrize("responses", [None, RESPONSES])
@pytest.mark.parametrize("strings", [True, False], ids=["strings", "tokens"])
@pytest.mark.parametrize("make", BATCHED.values(), ids=BATCHED)
def test_batches(make, strings, responses):
    preprocessor = tokenizers.gpt2(sequence_length=LENGTH)
    expected = expected_rows(preprocessor, PROMPTS, responses)
    columns = {"prompts": PROMPTS}
    if responses is not None:
        columns["responses"] = responses
    if not strings:
        columns = expected
    pack = Packer(preprocessor if strings else None, LENGTH)

    packed, keys = prepare(make(columns, 2), pack)

    assert set(keys) == set(expected)
    if isinstance(packed, tf.data.Dataset):
        for key in keys:
            assert packed.element_spec[key].shape == (None, LENGTH)
        batches = list(packed.as_numpy_iterator())
    else:
        batches = [packed[i] for i in range(len(packed))]
        assert packed.num_batches == 3
    assert [len(batch["token_ids"]) for batch in batches] == [2, 2, 1]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in keys}
    assert_same(joined, expected)


def test_py_dataset_keeps_its_settings_and_its_epochs():
    class Shuffled(Batches):
        calls = []

        def on_epoch_begin(self):
            self.calls.append("begin")

        def on_epoch_end(self):
            self.calls.append("end")

    dataset = Shuffled({"prompts": PROMPTS}, 2, workers=3, max_queue_size=7)
    packed, _ = prepare(dataset, Packer(tokenizers.gpt2(), LENGTH))
    assert (packed.workers, packed.max_queue_size) == (3, 7)
    packed.on_epoch_begin()
    packed.on_epoch_end()
    assert Shuffled.calls == ["begin", "end"]


def test_tf_data_pipeline_stays_lazy():
    # One batch is looked at beforehand, however long the data are.
    drawn = []

    def draw():
        while True:
            drawn.append(1)
            yield "said"

    spec = tf.TensorSpec((), tf.string)
    dataset = tf.data.Dataset.from_generator(draw, output_signature=spec)
    dataset = dataset.map(lambda x: {"prompts": x}).batch(2)
    packed, _ = prepare(dataset, Packer(tokenizers.gpt2(), LENGTH))
    assert len(drawn) < 10
    first = next(packed.as_numpy_iterator())
    assert_same(first, expected_rows(tokenizers.gpt2(), ["said", "said"], None))
