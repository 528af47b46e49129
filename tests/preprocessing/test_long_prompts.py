"""Prompts that leave no room for a response."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_skd
from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import prepare
from tests.support import bad_input
from tests.support import tokenizers

LENGTH = 8
# Two of five leave no room in a row of eight tokens.
LONG = "Would you tell me, please, which way I ought to go from here?"
PROMPTS = ["Alice was", LONG, "said the", "That depends", "The " + LONG]
RESPONSES = [" very", " tired", " Cat.", " a good", " deal"]
SHORT = [0, 2, 3]


@pytest.fixture(scope="module")
def preprocessor():
    return tokenizers.gpt2(sequence_length=LENGTH)


def _rows(preprocessor, data):
    """The same data without its long prompts, packed."""
    return Packer(preprocessor, LENGTH)(
        {key: [values[i] for i in SHORT] for key, values in data.items()}
    )


def _assert_same(packed, expected):
    assert set(packed) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value, err_msg=key)


def _lengths(packed, prefix=""):
    mask = packed[f"{prefix}padding_mask"].astype(int)
    return (mask - packed.get("response_mask", 0 * mask)).sum(1).tolist()


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncated_strings(side, start):
    preprocessor = tokenizers.llama3(add_start_token=start)
    tokenizer = preprocessor.tokenizer
    ids = np.array(tokenizer(LONG)).tolist()
    starts = [tokenizer.start_token_id] * start
    room = LENGTH - 1 - start
    kept = ids[-room:] if side == "left" else ids[:room]
    pack = Packer(preprocessor, LENGTH, long_prompts=f"truncate_{side}")
    packed = pack({"prompts": PROMPTS, "responses": RESPONSES})
    assert packed["token_ids"][1, :-1].tolist() == starts + kept
    # One token of the response fits.
    first = np.array(tokenizer(RESPONSES[1])).tolist()[0]
    assert packed["token_ids"][1, -1] == first
    np.testing.assert_array_equal(
        packed["response_mask"][1], np.arange(LENGTH) == LENGTH - 1
    )
    # The other rows are unchanged.
    short = {key: value[SHORT] for key, value in packed.items()}
    data = {"prompts": PROMPTS, "responses": RESPONSES}
    _assert_same(short, _rows(preprocessor, data))


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncated_token_ids(side):
    token_ids = np.arange(1, 17).reshape(2, 8)
    mask = np.array([[1] * 8, [1] * 3 + [0] * 5])
    pack = Packer(None, long_prompts=f"truncate_{side}")
    packed = pack({"token_ids": token_ids, "padding_mask": mask})
    kept = np.arange(2, 9) if side == "left" else np.arange(1, 8)
    np.testing.assert_array_equal(packed["token_ids"][0, :-1], kept)
    np.testing.assert_array_equal(packed["padding_mask"].sum(1), [7, 3])
    np.testing.assert_array_equal(packed["token_ids"][1], token_ids[1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncated_prompts_of_the_teacher(preprocessor, side):
    tokenizer = preprocessor.tokenizer
    data = {"prompts": PROMPTS[:3:2], "teacher_prompts": [LONG, "said"]}
    room = 12
    pack = Packer(preprocessor, LENGTH, room, long_prompts=f"truncate_{side}")
    packed = pack(data)
    (student, _), (teacher, _) = _lengths(packed), _lengths(packed, "teacher_")
    assert teacher == room - (LENGTH - student)
    ids = np.array(tokenizer(LONG)).tolist()
    kept = ids[1 - teacher :] if side == "left" else ids[: teacher - 1]
    assert packed["teacher_token_ids"][0, :teacher].tolist() == [
        tokenizer.start_token_id,
        *kept,
    ]
    # The teacher's row is too short, however many tokens are dropped.
    with pytest.raises(ValueError, match="`teacher_sequence_length=32`"):
        Packer(preprocessor, 64, 32, long_prompts=f"truncate_{side}")(data)


def test_skipped_columns(preprocessor):
    data = {"prompts": PROMPTS, "responses": RESPONSES}
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    with pytest.warns(UserWarning, match="Skipped 2 of 5 prompts in `x`") as w:
        packed, _ = prepare(data, pack)
    assert len(w) == 1
    _assert_same(packed, _rows(preprocessor, data))


def test_skipped_token_ids():
    mask = np.array([[1] * 8, [1] * 3 + [0] * 5])
    data = {"token_ids": np.ones((2, 8), int), "padding_mask": mask}
    with pytest.warns(UserWarning, match="Skipped 1 of 2 prompts"):
        packed, _ = prepare(data, Packer(None, long_prompts="skip"))
    np.testing.assert_array_equal(packed["padding_mask"], mask[1:])


def test_skipped_prompts_of_the_teacher(preprocessor):
    data = {
        "prompts": [PROMPTS[i] for i in SHORT],
        "teacher_prompts": ["Alice", LONG, "That"],
    }
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    packed = pack(data)
    _assert_same(packed, pack({k: v[::2] for k, v in data.items()}))


class Batches(keras.utils.PyDataset):
    def __init__(self, columns, batch_size=2, **kwargs):
        super().__init__(**kwargs)
        self.columns, self.batch_size = columns, batch_size

    def __len__(self):
        return -(-len(self.columns["prompts"]) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return {key: value[rows] for key, value in self.columns.items()}


def _as_tf_data(columns, batch_size=2):
    return tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)


def _distiller(preprocessor, rule):
    models = [
        bad_input.gpt2(
            preprocessor.tokenizer.vocabulary_size(),
            preprocessor=preprocessor,
            seed=seed,
            dropout=0.0,
        )
        for seed in (1, 2)
    ]
    distiller = keras_skd.Distiller(*models, "supervised", long_prompts=rule)
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    return distiller


@pytest.fixture(scope="module")
def skipping(preprocessor):
    return _distiller(preprocessor, "skip")


def _read(data):
    """The batches of one epoch, as Keras reads them."""
    if isinstance(data, tf.data.Dataset):
        return list(data.as_numpy_iterator())
    batches = [data[i] for i in range(len(data))]
    data.on_epoch_end()
    return batches


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("make", [_as_tf_data, Batches])
def test_skipped_in_streams(preprocessor, make, batch_size):
    data = {"prompts": PROMPTS, "responses": RESPONSES}
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Not before the end.
        packed, keys = prepare(make(data, batch_size), pack, "validation_data")
    with pytest.warns(
        UserWarning, match="Skipped 2 of 5 prompts in `validation_data`"
    ) as caught:
        batches, _ = (_read(packed) for _ in range(2))
    assert len(caught) == 1
    sizes = [len(batch["token_ids"]) for batch in batches]
    expected = {
        (_as_tf_data, 1): [1, 1, 1],
        (_as_tf_data, 2): [2, 1],
        (_as_tf_data, 5): [3],
        # The second of the batches of one is the third again, and so on.
        (Batches, 1): [1, 1, 1, 1, 1],
        (Batches, 2): [1, 2, 1],
        (Batches, 5): [3],
    }
    assert sizes == expected[make, batch_size]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in keys}
    if make is Batches and batch_size == 1:
        joined = {k: v[[0, 2, 3]] for k, v in joined.items()}
    if make is Batches and batch_size == 2:
        joined = {k: v[:3] for k, v in joined.items()}
    _assert_same(joined, _rows(preprocessor, data))


@pytest.mark.parametrize("make", [dict, _as_tf_data, Batches])
def test_fit_skips(skipping, preprocessor, make):
    data = {"prompts": PROMPTS[:4], "responses": RESPONSES[:4]}
    short = {k: [v[i] for i in SHORT] for k, v in data.items()}
    expected, _ = skipping.evaluate(short, batch_size=1, verbose=0)
    batch_size = 2 if make is dict else None
    with pytest.warns(UserWarning, match="Skipped 1 of 4 prompts in `x`"):
        history = skipping.fit(
            make(data), batch_size=batch_size, epochs=2, verbose=0
        ).history
    assert history["loss"] == pytest.approx([expected] * 2, rel=1e-4)


def test_endless_streams_report_at_once(preprocessor):
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    data, _ = prepare(_as_tf_data({"prompts": PROMPTS}).repeat(), pack)
    with pytest.warns(UserWarning, match="Skipped 1 of 2 prompts") as caught:
        for _ in zip(range(9), data):
            pass
    assert len(caught) == 1


def test_nothing_is_left(preprocessor):
    pack = Packer(preprocessor, LENGTH, long_prompts="skip")
    for make in (dict, Batches):
        with pytest.raises(ValueError, match="In `x`: Every prompt"):
            prepare(make({"prompts": [LONG, LONG]}), pack)


def test_generate_keeps_its_rows(skipping):
    """Each prompt has a text to return, so that none can be skipped."""
    with pytest.raises(ValueError, match="no room.*row 1"):
        skipping.generate(PROMPTS)
    with pytest.warns(UserWarning, match="Skipped 2 of 5"):
        rollout = skipping.generate_rollout(
            {"prompts": PROMPTS, "responses": RESPONSES}
        )
    assert len(rollout["token_ids"]) == 3


def test_error_is_the_default(preprocessor):
    with pytest.raises(ValueError, match="row 1.*`long_prompts`"):
        Packer(preprocessor, LENGTH)({"prompts": PROMPTS})
    with pytest.raises(
        ValueError, match=r"`long_prompts` must be one of .*Received: 'cut'"
    ):
        keras_skd.Distiller(
            bad_input.llama(), bad_input.llama(), long_prompts="cut"
        )
