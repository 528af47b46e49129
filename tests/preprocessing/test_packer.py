import keras
import numpy as np
import pytest

from keras_skd._preprocessing import Packer
from tests.support import tokenizers
from tests.support.rows import LENGTH
from tests.support.rows import PROMPTS
from tests.support.rows import RESPONSES
from tests.support.rows import assert_same
from tests.support.rows import expected_rows

PREPROCESSORS = ["gpt2", "llama3", "gemma", "llama"]


@pytest.fixture(params=PREPROCESSORS)
def preprocessor(request):
    return getattr(tokenizers, request.param)(sequence_length=LENGTH)


@pytest.mark.parametrize("responses", [None, RESPONSES])
def test_rows(preprocessor, responses):
    data = {"prompts": PROMPTS}
    if responses is not None:
        data["responses"] = responses
    packed = Packer(preprocessor, LENGTH)(data)
    assert_same(packed, expected_rows(preprocessor, PROMPTS, responses))


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
    # Tokenizing the text as a whole would give different tokens.
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
    # Much longer than the student's, or shorter.
    theirs = ["said the Cat. " + PROMPTS[0], "", "that", PROMPTS[3], "A"]
    if room is not None:
        theirs[0] = PROMPTS[0]
    data = {"prompts": PROMPTS, "responses": RESPONSES}
    packed = Packer(preprocessor, LENGTH, room)(
        {**data, "teacher_prompts": theirs}
    )
    expected = expected_rows(preprocessor, PROMPTS, RESPONSES)
    rows = expected_rows(preprocessor, theirs, None, room or 2 * LENGTH)
    for key, value in rows.items():
        expected[f"teacher_{key}"] = value
    assert_same(packed, expected)


def test_text_beyond_ascii():
    text = "Les aventures d'Alice au pays des merveilles, café ☃ 不思議"
    preprocessor = tokenizers.gpt2([text], sequence_length=LENGTH)
    for prompt in (text, text.encode()):
        packed = Packer(preprocessor, LENGTH)({"prompts": [prompt]})
        assert_same(packed, expected_rows(preprocessor, [text], None))
