"""Prompts and responses as text, and as the rows they should become."""

import numpy as np

LENGTH = 16

# Lengths are very different. The second prompt and its response form one word
# together, and the fourth response is longer than a row.
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


def expected_rows(preprocessor, prompts, responses, length=LENGTH):
    """Rows of ids and of the response mask, in plain Python."""
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


def assert_same(packed, expected):
    assert set(packed) == set(expected)
    for key, value in expected.items():
        value = np.asarray(value)
        np.testing.assert_array_equal(packed[key], value, err_msg=key)
        dtype = "int32" if key.endswith("token_ids") else "bool"
        assert packed[key].dtype == dtype, key
