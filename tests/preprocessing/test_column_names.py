"""Columns with names of their own, and columns that are not read."""

import functools
import warnings

import datasets
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import gather
from tests.support import bad_input
from tests.support import tokenizers

LENGTH = 16
PROMPTS = ["Alice was", "said the", "That depends"]
RESPONSES = [" very tired", " Cat.", " a good"]
DATA = {"prompts": PROMPTS, "responses": RESPONSES}
THEIRS = {"question": PROMPTS, "answer": RESPONSES}
COLUMNS = {"prompts": "question", "responses": "answer"}


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


def _pack(**kwargs):
    return Packer(tokenizers.gpt2(), LENGTH, **kwargs)


class Batches(keras.utils.PyDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


KINDS = {
    "dict": dict,
    "list of dicts": lambda x: [dict(zip(x, row)) for row in zip(*x.values())],
    "Dataset": datasets.Dataset.from_dict,
    "tf.data": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(2),
    "PyDataset": Batches,
    "generator": lambda x: (x for _ in range(1)),
}


@pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)
def test_names(convert):
    expected = _pack()(DATA)
    pack = _pack(columns=COLUMNS)
    packed = gather(convert(THEIRS), pack)
    # Ours are understood, too.
    ours = gather(convert(DATA), pack)
    for key, value in expected.items():
        np.testing.assert_array_equal(packed[key], value)
        np.testing.assert_array_equal(ours[key], value)


def test_names_that_are_ours_for_other_columns():
    swapped = {"prompts": "responses", "responses": "prompts"}
    for convert in KINDS.values():
        packed = gather(
            convert({"prompts": RESPONSES, "responses": PROMPTS}),
            _pack(columns=swapped),
        )
        for key, value in _pack()(DATA).items():
            np.testing.assert_array_equal(packed[key], value)


def test_a_name_is_read_once():
    # The responses are the prompts, and are not responses, too.
    data = {"responses": PROMPTS, "prompts": RESPONSES}
    pack = _pack(columns={"prompts": "responses"})
    with pytest.warns(UserWarning, match=r"are not read: \['prompts'\]"):
        packed = pack(data)
    for key, value in _pack()({"prompts": PROMPTS}).items():
        np.testing.assert_array_equal(packed[key], value)
    assert "response_mask" not in packed


@pytest.mark.parametrize("key", ["prompts", "messages"])
def test_chats_beside_prompts(key):
    data = {
        "prompts": ["Alice"],
        "messages": [[{"role": "user", "content": "Why?"}]],
    }
    preprocessor = tokenizers.gemma(turns=True)
    make = functools.partial(
        Packer, preprocessor, LENGTH, chat_template="gemma"
    )
    (other,) = {*data} - {key}
    with pytest.warns(UserWarning, match=f"are not read: \\['{other}'\\]"):
        packed = make(columns={key: key})(data)
    expected = make()({key: data[key]})
    np.testing.assert_array_equal(packed["token_ids"], expected["token_ids"])


def test_names_of_token_ids_and_chats():
    packed = _pack()(DATA)
    theirs = {
        "input_ids": packed["token_ids"],
        "attention_mask": packed["padding_mask"],
        "response_mask": packed["response_mask"],
    }
    names = {"token_ids": "input_ids", "padding_mask": "attention_mask"}
    for key, value in Packer(None, columns=names)(theirs).items():
        np.testing.assert_array_equal(value, packed[key])
    preprocessor = tokenizers.gemma(turns=True)
    chats = [[{"role": "user", "content": "Why?"}]]
    pack = Packer(
        preprocessor,
        32,
        chat_template="gemma",
        columns={"messages": "conversation"},
    )
    assert pack({"conversation": chats})["token_ids"].shape == (1, 32)


@pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)
def test_other_columns_are_ignored_and_named_once(convert):
    data = {**THEIRS, "score": [1.0, 2.0, 3.0], "id": ["a", "b", "c"]}
    pack = _pack(columns=COLUMNS)
    with pytest.warns(
        UserWarning, match=r"are not read: \['id', 'score'\]"
    ) as w:
        packed, again = (gather(convert(data), pack) for _ in range(2))
    assert len(w) == 1
    for key, value in _pack()(DATA).items():
        np.testing.assert_array_equal(packed[key], value)
        np.testing.assert_array_equal(again[key], value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gather(convert(THEIRS), pack)


def test_other_columns_of_a_distiller(m):
    data = {**bad_input.PLAIN, "answers": ["a", "b"]}
    calls = m.write, m.train_on_batch, m.test_on_batch
    with pytest.warns(UserWarning, match="'answers'") as w:
        rollout, *_ = [call(data) for call in calls]
    assert sum("'answers'" in str(x.message) for x in w) == 1
    assert len(rollout["token_ids"]) == 2


@bad_input.cases(
    [
        (
            "a list of names",
            lambda m: m.make(columns=["question"]),
            TypeError,
            ["`columns`", "dict", "['question']"],
        ),
        (
            "a name for what is not read",
            lambda m: m.make(*m.with_text, columns={"prompt": "question"}),
            ValueError,
            ["`columns`", "'prompts'", "{'prompt': 'question'}"],
        ),
        (
            "a name for strings where there are token ids",
            lambda m: m.make(columns={"prompts": "question"}),
            ValueError,
            ["`columns`", "'token_ids'", "{'prompts': 'question'}"],
        ),
        (
            "a number for a name",
            lambda m: m.make(*m.with_text, columns={"prompts": 0}),
            TypeError,
            ['`columns["prompts"]`', "0"],
        ),
        (
            "a name that the data do not have",
            lambda m: m.make(
                *m.with_text, columns={**COLUMNS, "responses": "anwser"}
            ).generate_rollout(THEIRS),
            ValueError,
            ["In `x`", '`columns["responses"]`', "'anwser'", "'question'"],
        ),
        (
            "no name that the data have",
            lambda m: m.make(*m.with_text, columns=COLUMNS).generate_rollout(
                {"text": ["a"]}
            ),
            ValueError,
            ["'prompts'", "missing", "['text']", "`columns`"],
        ),
    ],
)
def test_bad_input(m, call, error, words):
    bad_input.check(m, call, error, words)
