import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import prepare
from tests.support import tokenizers

LENGTH = 16
PREPROCESSORS = ["gpt2", "llama3", "gemma", "llama"]

# Of very different lengths. The second prompt and its response are one word
# when they stand together, and the fourth response is longer than a row.
PROMPTS = [
    "Would you tell me, please, which way",
    "The begin",
    "said",
    "That depends",
    "Alice was",
]
RESPONSES = [
    " I ought to go",
    "ning",
    " the Cat.",
    " a good deal on where you want to get to, said the Cat. Begin at the "
    "beginning, the King said, very gravely, and go on till you come to the "
    "end: then stop.",
    "",
]


@pytest.fixture(params=PREPROCESSORS)
def preprocessor(request):
    return getattr(tokenizers, request.param)(sequence_length=LENGTH)


def _expected(preprocessor, prompts, responses, length=LENGTH):
    """Rows of ids and of where the response is, written down plainly."""
    tokenizer = preprocessor.tokenizer
    packed = []
    for i, prompt in enumerate(prompts):
        ids = [tokenizer.start_token_id] + list(tokenizer(prompt))
        response = [False] * len(ids)
        if responses is not None:
            written = list(tokenizer(responses[i])) + [tokenizer.end_token_id]
            ids, response = ids + written, response + [True] * len(written)
        padding = length - len(ids)
        mask = [True] * len(ids) + [False] * padding
        ids, response = ids + [0] * padding, response + [False] * padding
        packed.append((ids[:length], mask[:length], response[:length]))
    ids, mask, response = (np.array(column) for column in zip(*packed))
    expected = {"token_ids": ids, "padding_mask": mask}
    if responses is not None:
        expected["response_mask"] = response
    return expected


def _assert_same(packed, expected):
    assert set(packed) == set(expected)
    for key, value in expected.items():
        value = np.asarray(value)
        np.testing.assert_array_equal(packed[key], value, err_msg=key)
        dtype = "int32" if key.endswith("token_ids") else "bool"
        assert packed[key].dtype == dtype, key


@pytest.mark.parametrize("responses", [None, RESPONSES])
def test_rows(preprocessor, responses):
    data = {"prompts": PROMPTS}
    if responses is not None:
        data["responses"] = responses
    packed = Packer(preprocessor, LENGTH)(data)
    _assert_same(packed, _expected(preprocessor, PROMPTS, responses))


def test_prompts_are_packed_as_kerashub_packs_them(preprocessor):
    packed = Packer(preprocessor, LENGTH)({"prompts": PROMPTS})
    expected = preprocessor.generate_preprocess(PROMPTS, sequence_length=LENGTH)
    mask = keras.ops.convert_to_numpy(expected["padding_mask"])
    ids = keras.ops.convert_to_numpy(expected["token_ids"])
    np.testing.assert_array_equal(packed["padding_mask"], mask)
    np.testing.assert_array_equal(packed["token_ids"][mask], ids[mask])


def test_prompt_and_response_stay_apart(preprocessor):
    tokenizer = preprocessor.tokenizer
    packed = Packer(preprocessor, LENGTH)(
        {"prompts": [PROMPTS[1]], "responses": [RESPONSES[1]]}
    )
    ids = packed["token_ids"][packed["padding_mask"]].tolist()
    # Packing the text as a whole would have made other tokens of it.
    text = PROMPTS[1] + RESPONSES[1]
    assert ids[1:-1] != list(tokenizer(text))
    assert ids[1:-1] == [*tokenizer(PROMPTS[1]), *tokenizer(RESPONSES[1])]


def test_a_cut_response_fills_its_row_and_has_no_end(preprocessor):
    packed = Packer(preprocessor, LENGTH)(
        {"prompts": PROMPTS, "responses": RESPONSES}
    )
    end = preprocessor.tokenizer.end_token_id
    ends = (packed["token_ids"] == end) & packed["response_mask"]
    np.testing.assert_array_equal(ends.sum(axis=1), [1, 1, 1, 0, 1])
    assert packed["padding_mask"][3].all()
    # An empty response is the end token alone.
    assert packed["response_mask"][4].sum() == 1


def test_a_prompt_that_leaves_room_for_one_token(preprocessor):
    prompt = PROMPTS[0]
    length = len(preprocessor.tokenizer(prompt)) + 2
    packed = Packer(preprocessor, length)(
        {"prompts": [prompt], "responses": [RESPONSES[3]]}
    )
    response = [False] * (length - 1) + [True]
    np.testing.assert_array_equal(packed["response_mask"], [response])
    assert packed["padding_mask"].all()


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_start_and_end_tokens_follow_the_preprocessor(start, end):
    preprocessor = tokenizers.gemma(add_start_token=start, add_end_token=end)
    tokenizer = preprocessor.tokenizer
    packed = Packer(preprocessor, LENGTH)(
        {"prompts": ["said"], "responses": [" the Cat."]}
    )
    ids = packed["token_ids"][packed["padding_mask"]].tolist()
    said, cat = list(tokenizer("said")), list(tokenizer(" the Cat."))
    starts = [tokenizer.start_token_id] * start
    ends = [tokenizer.end_token_id] * end
    assert ids == starts + said + cat + ends


@pytest.mark.parametrize("room", [None, LENGTH + 3])
def test_prompts_of_the_teacher_have_rows_of_their_own(preprocessor, room):
    # Far longer than the student's, or shorter.
    theirs = ["said the Cat. " + PROMPTS[0], "", "that", PROMPTS[3], "A"]
    if room is not None:
        theirs[0] = PROMPTS[0]
    data = {"prompts": PROMPTS, "responses": RESPONSES}
    packed = Packer(preprocessor, LENGTH, room)(
        {**data, "teacher_prompts": theirs}
    )
    expected = _expected(preprocessor, PROMPTS, RESPONSES)
    rows = _expected(preprocessor, theirs, None, room or 2 * LENGTH)
    for key, value in rows.items():
        expected[f"teacher_{key}"] = value
    _assert_same(packed, expected)


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
    _assert_same(packed, _expected(preprocessor, PROMPTS, RESPONSES))
    assert keys == tuple(packed)


def test_text_beyond_ascii():
    text = "Les aventures d'Alice au pays des merveilles, café ☃ 不思議"
    preprocessor = tokenizers.gpt2([text], sequence_length=LENGTH)
    for prompt in (text, text.encode()):
        packed = Packer(preprocessor, LENGTH)({"prompts": [prompt]})
        _assert_same(packed, _expected(preprocessor, [text], None))


@pytest.mark.parametrize("convert", TOKEN_INPUTS.values(), ids=TOKEN_INPUTS)
@pytest.mark.parametrize("sequence_length", [None, LENGTH])
def test_columns_of_token_ids(convert, sequence_length):
    expected = _expected(tokenizers.gpt2(), PROMPTS, RESPONSES)
    data = {key: convert(value) for key, value in expected.items()}
    packed, keys = prepare(data, Packer(None, sequence_length))
    _assert_same(packed, expected)
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
    expected = _expected(preprocessor, PROMPTS, responses)
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
    _assert_same(joined, expected)


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
    _assert_same(first, _expected(tokenizers.gpt2(), ["said", "said"], None))
