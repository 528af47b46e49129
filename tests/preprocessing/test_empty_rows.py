"""Rows without a prompt or a response."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import gather
from tests.support import tokenizers

LENGTH = 16
PROMPTS = ["Alice was", "", "said the", "That depends", "The"]
RESPONSES = [" very tired", " Cat.", "", " a good", None]
DATA = {"prompts": PROMPTS, "responses": RESPONSES}


def _preprocessor(start=False):
    return tokenizers.gpt2(add_start_token=start)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        return {key: value[rows] for key, value in self.data.items()}


def _tf_data(data):
    data = {k: [v or "" for v in values] for k, values in data.items()}
    return tf.data.Dataset.from_tensor_slices(data).batch(2)


KINDS = {
    "dict": dict,
    "list of dicts": lambda x: [dict(zip(x, row)) for row in zip(*x.values())],
    "tf.data": _tf_data,
    "PyDataset": Batches,
    "iterable": lambda x: InTurn(x),
}


class InTurn:
    def __init__(self, data):
        self.data = Batches(data)

    def __iter__(self):
        return (self.data[i] for i in range(3))


@pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)
def test_skipped_and_counted_once(convert):
    pack = Packer(_preprocessor(), LENGTH, empty_rows="skip")
    with pytest.warns(UserWarning, match="Skipped 3 of 5 rows in `x`") as w:
        packed = gather(convert(DATA), pack)
    assert len([x for x in w if "Skipped" in str(x.message)]) == 1
    expected = Packer(_preprocessor(), LENGTH)(
        {key: [values[i] for i in (0, 3)] for key, values in DATA.items()}
    )
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value)


def test_long_and_empty_rows_are_told_apart():
    data = {"prompts": ["Alice " * 20, "", *PROMPTS[:1]]}
    pack = Packer(
        _preprocessor(), LENGTH, long_prompts="skip", empty_rows="skip"
    )
    with pytest.warns(UserWarning, match="Skipped") as w:
        packed = gather(data, pack)
    messages = [str(x.message) for x in w]
    assert len(messages) == 2 and len(packed["token_ids"]) == 1
    assert "Skipped 1 of 3 prompts" in messages[0]
    assert "Skipped 1 of 3 rows" in messages[1]
    with pytest.raises(ValueError, match="1 and 1 of 2"):
        gather({"prompts": data["prompts"][:2]}, pack)


def test_error():
    with pytest.raises(ValueError, match='"prompts".*row 1.*`.*"skip"'):
        gather(DATA, Packer(_preprocessor(), LENGTH, empty_rows="error"))
    pack = Packer(_preprocessor(start=True), LENGTH, empty_rows="error")
    with pytest.raises(ValueError, match="empty response.*row 2"):
        gather(DATA, pack)
    with pytest.raises(ValueError, match="`empty_rows`.*Received: 'drop'"):
        Packer(_preprocessor(), LENGTH, empty_rows="drop")


@pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)
def test_kept_and_counted_once(convert):
    # A start token is enough of a prompt, and an end token of a response.
    preprocessor = _preprocessor(start=True)
    total = "[24]" if convert is _tf_data else "5"
    with pytest.warns(UserWarning, match=f"of {total} rows in `x` have") as w:
        packed = gather(convert(DATA), Packer(preprocessor, LENGTH))
    assert sum("rows in `x`" in str(x.message) for x in w) == 1
    assert len(packed["token_ids"]) == 5
    for row in (2, 4):
        ids = packed["token_ids"][row][packed["response_mask"][row]]
        assert ids.tolist() == [preprocessor.tokenizer.end_token_id]
    with pytest.raises(ValueError, match='"prompts" must have a token'):
        Packer(_preprocessor(), LENGTH)(DATA)


def test_token_ids():
    ids = np.ones((3, 4), int)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    data = {"token_ids": ids, "padding_mask": mask}
    with pytest.warns(UserWarning, match="Skipped 1 of 3 rows"):
        packed = gather(data, Packer(None, empty_rows="skip"))
    np.testing.assert_array_equal(packed["padding_mask"], mask[::2])
    # A response of no token was marked on purpose.
    data = {
        "token_ids": ids[:1],
        "padding_mask": mask[:1],
        "response_mask": 0 * mask[:1],
    }
    assert len(Packer(None)(data)["token_ids"]) == 1


def test_chats():
    question = {"role": "user", "content": "Alice"}
    answer = {"role": "assistant", "content": "said"}
    silent = {"role": "assistant", "content": ""}
    chats = [[question, answer], [question], [], [question, silent]]
    preprocessor = tokenizers.gemma(turns=True)
    kwargs = dict(chat_template="gemma", teacher_chat_template="gemma")
    pack = Packer(preprocessor, 32, empty_rows="skip", **kwargs)
    with pytest.warns(UserWarning, match="Skipped 3 of 4 rows"):
        packed = gather({"messages": chats}, pack)
    expected = Packer(preprocessor, 32, **kwargs)({"messages": chats[:1]})
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value)
    # Without any answer, there is none to miss.
    assert len(pack({"messages": [[question], [question]]})["token_ids"]) == 2
