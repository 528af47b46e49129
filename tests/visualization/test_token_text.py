"""The texts of the tokens of a row, joined, are the text of the row."""

import keras_hub
import numpy as np
import pytest

from keras_skd._source import Source
from keras_skd.visualization._token_text import printable
from keras_skd.visualization._token_text import row_tokens
from keras_skd.visualization._token_text import token_texts
from tests.support import tokenizers

FAMILIES = {
    "gpt2": tokenizers.gpt2,
    "llama3": tokenizers.llama3,
    "gemma": tokenizers.gemma,
    "llama": tokenizers.llama,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_joined_they_are_the_text(family):
    tokenizer = FAMILIES[family]().tokenizer
    rows = [[int(i) for i in tokenizer(s)] for s in tokenizers.SENTENCES]
    texts = token_texts(tokenizer, [*rows, []])
    assert ["".join(row) for row in texts] == [*tokenizers.SENTENCES, ""]
    assert [len(row) for row in texts] == [*map(len, rows), 0]


def test_a_token_without_text_has_a_name():
    tokenizer = tokenizers.gemma().tokenizer
    ids = [tokenizer.start_token_id, *tokenizer("said the"), 2]
    (texts,) = token_texts(tokenizer, [ids])
    assert texts[0] == "<bos>" and texts[-1] == "<eos>"
    assert "".join(texts[1:-1]) == "said the"


def test_a_character_of_several_tokens():
    # Byte-pair encoding writes the bytes of ☃ (e2 98 83) as â, ĺ and ĥ.
    tokens = ["a", "â", "ĺ", "ĥ", "b", "ab"]
    tokenizer = keras_hub.tokenizers.BytePairTokenizer(
        {token: i for i, token in enumerate(tokens)}, ["a b"]
    )
    (texts,) = token_texts(tokenizer, [[0, 1, 2, 3, 4]])
    assert "".join(texts) == "a☃b"
    assert texts[0] == "a" and texts[4] == "b"
    # Half a character, which nothing completes.
    (texts,) = token_texts(tokenizer, [[0, 1, 4]])
    assert "".join(texts) == tokenizer.detokenize([0, 1, 4])


def test_without_a_tokenizer_there_are_ids():
    assert token_texts(None, [[3, 12]]) == [[" 3", " 12"]]


def test_control_characters_are_written_out():
    assert printable("a\x1b[2J\x07\n\tb\u202ec é☃") == (
        "a\\x1b[2J\\x07\n\tb\\u202ec é☃"
    )


def test_the_padding_is_left_out():
    rollout = {
        "token_ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]),
        "sources": np.array([[1, 2, 3, 0], [1, 4, 0, 0]]),
    }
    tokens = row_tokens(rollout, None, [1, 0])
    assert [[(t.column, t.token_id) for t in row] for row in tokens] == [
        [(0, 8), (1, 9)],
        [(0, 5), (1, 6), (2, 7)],
    ]
    assert [t.source for t in tokens[1]] == [
        Source.PROMPT,
        Source.STUDENT,
        Source.TEACHER,
    ]
