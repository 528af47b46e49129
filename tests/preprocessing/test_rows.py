"""Data that comes as rows, as a table or as prompts alone."""

import datasets
import numpy as np
import pandas
import pytest
import tensorflow as tf

import keras_skd
from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import gather
from keras_skd._preprocessing import prepare
from tests.support import bad_input
from tests.support import tokenizers

LENGTH = 16
PROMPTS = ["Alice was", "said the", "That depends", "The", "Would you"]
RESPONSES = [" very tired", " Cat.", " a good", " deal", " tell me"]
DATA = {"prompts": PROMPTS, "responses": RESPONSES}
ROWS = [dict(zip(DATA, row)) for row in zip(*DATA.values())]
CHATS = [
    [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response.strip()},
    ]
    for prompt, response in zip(PROMPTS, RESPONSES)
]


@pytest.fixture(scope="module")
def preprocessor():
    return tokenizers.gemma(turns=True, sequence_length=LENGTH)


def _assert_same(packed, expected):
    assert set(packed) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value, err_msg=key)


STRINGS = {
    "list of dicts": lambda: ROWS,
    "Dataset": lambda: datasets.Dataset.from_dict(DATA),
    "Dataset of NumPy": lambda: datasets.Dataset.from_list(ROWS).with_format(
        "numpy"
    ),
    "Dataset of a split": lambda: datasets.Dataset.from_list(
        [{"prompts": "No.", "responses": "No."}, *ROWS]
    ).select(range(1, 6)),
    "IterableDataset of batches": lambda: (
        datasets.Dataset.from_dict(DATA).to_iterable_dataset().batch(2)
    ),
    "DataFrame": lambda: pandas.DataFrame(DATA),
}


@pytest.mark.parametrize("make", STRINGS.values(), ids=STRINGS)
def test_strings(make, preprocessor):
    pack = Packer(preprocessor, LENGTH)
    _assert_same(gather(make(), pack), pack(DATA))


PROMPTS_ALONE = {
    "list": list,
    "array": np.array,
    "array of objects": lambda x: np.array(x, dtype=object),
    "Series": pandas.Series,
    "list of bytes": lambda x: [text.encode() for text in x],
    "tensor": tf.constant,
    "tf.data": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(2),
    "generator": lambda x: (x[i : i + 2] for i in range(0, len(x), 2)),
}


@pytest.mark.parametrize("make", PROMPTS_ALONE.values(), ids=PROMPTS_ALONE)
def test_prompts_alone(make, preprocessor):
    pack = Packer(preprocessor, LENGTH)
    _assert_same(gather(make(PROMPTS), pack), pack({"prompts": PROMPTS}))


def test_a_missing_value_of_a_data_frame_is_none(preprocessor):
    frame = pandas.DataFrame(DATA)
    frame.loc[1, "responses"] = np.nan
    pack = Packer(preprocessor, LENGTH)
    rows = [dict(row) for row in ROWS]
    rows[1]["responses"] = None
    _assert_same(gather(frame, pack), gather(rows, pack))


@pytest.mark.parametrize("make", list(STRINGS.values())[:4])
def test_whole_columns_are_arrays(make, preprocessor):
    # Keras shuffles and batches them, as it does a dict.
    packed, keys = prepare(make(), Packer(preprocessor, LENGTH))
    assert isinstance(packed, dict) and keys == tuple(packed)
    assert len(packed["token_ids"]) == len(ROWS)


CHAT_DATA = {
    "dict": lambda: {"messages": CHATS},
    "list of dicts": lambda: [{"messages": chat} for chat in CHATS],
    "Dataset": lambda: datasets.Dataset.from_dict({"messages": CHATS}),
    "generator": lambda: ({"messages": CHATS[i : i + 2]} for i in (0, 2, 4)),
    "IterableDataset of batches": lambda: (
        datasets.Dataset.from_dict({"messages": CHATS})
        .to_iterable_dataset()
        .batch(3)
    ),
}


@pytest.mark.parametrize("make", CHAT_DATA.values(), ids=CHAT_DATA)
def test_chats(make, preprocessor):
    pack = Packer(preprocessor, LENGTH * 4, chat_template="gemma")
    _assert_same(gather(make(), pack), pack({"messages": CHATS}))


def test_token_ids(preprocessor):
    expected = Packer(preprocessor, LENGTH)(DATA)
    columns = {key: value.tolist() for key, value in expected.items()}
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    for data in (rows, datasets.Dataset.from_list(rows)):
        _assert_same(gather(data, Packer(None)), expected)


def test_token_ids_of_different_lengths(preprocessor):
    # As a tokenizer leaves them that pads nothing.
    expected = Packer(preprocessor, LENGTH)(DATA)
    lengths = expected["padding_mask"].sum(1)
    assert len({*lengths}) > 1
    columns = {
        key: [row[:n].tolist() for row, n in zip(value, lengths)]
        for key, value in expected.items()
    }
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    for data in (columns, rows, datasets.Dataset.from_list(rows)):
        _assert_same(gather(data, Packer(None, LENGTH)), expected)
        packed = gather(data, Packer(None))
        assert packed["token_ids"].shape[1] == lengths.max()
        assert packed["response_mask"].dtype == "bool"
    theirs = {
        "teacher_token_ids": columns["token_ids"],
        "teacher_padding_mask": columns["padding_mask"],
    }
    packed = Packer(None, LENGTH)({**columns, **theirs})
    assert packed["teacher_token_ids"].shape == (5, 2 * LENGTH)


def test_what_is_not_read_is_not_decoded(preprocessor):
    broken = {"bytes": b"no image", "path": None}
    data = datasets.Dataset.from_dict(
        {**DATA, "image": [broken] * len(PROMPTS)},
        features=datasets.Features(
            {
                **dict.fromkeys(DATA, datasets.Value("string")),
                "image": datasets.Image(),
            }
        ),
    )
    with pytest.raises(OSError, match="cannot identify"):
        list(data["image"])
    pack = Packer(preprocessor, LENGTH)
    with pytest.warns(UserWarning, match="image"):
        packed = gather(data, pack)
    _assert_same(packed, pack(DATA))


def test_a_transform_is_applied(preprocessor):
    def transform(batch):
        return {"prompts": [text.upper() for text in batch["prompts"]]}

    data = datasets.Dataset.from_dict(DATA).with_transform(transform)
    pack = Packer(preprocessor, LENGTH)
    expected = pack({"prompts": [prompt.upper() for prompt in PROMPTS]})
    _assert_same(gather(data, pack), expected)


def test_fit_shuffles_and_batches(preprocessor):
    size = preprocessor.tokenizer.vocabulary_size()
    models = [bad_input.gpt2(size, preprocessor=preprocessor) for _ in range(2)]
    distiller = keras_skd.Distiller(*models, rollout="supervised")
    distiller.compile(optimizer="sgd")
    dataset = datasets.Dataset.from_dict(DATA)
    history = distiller.fit(
        dataset, batch_size=2, epochs=2, validation_data=ROWS, verbose=0
    )
    assert int(distiller.training_step.numpy()) == 6
    assert len(history.history["val_loss"]) == 2
    expected = distiller.evaluate(DATA, batch_size=2, verbose=0)
    for data in (dataset, ROWS, (ROWS,)):
        received = distiller.evaluate(data, batch_size=2, verbose=0)
        np.testing.assert_allclose(received, expected, rtol=1e-6)
    # Whole columns, of which a part is held back.
    history = distiller.fit(ROWS, batch_size=2, validation_split=0.4, verbose=0)
    assert int(distiller.training_step.numpy()) == 8
    assert len(history.history["val_loss"]) == 1
