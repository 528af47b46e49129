"""All inputs of `generate`, and their outputs."""

import numpy as np
import pytest
import tensorflow as tf

import keras_skd
from tests.support import bad_input
from tests.support import tokenizers

TEXTS = ["Alice was", "said the"]


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@pytest.fixture(scope="module")
def distiller():
    preprocessor = tokenizers.gpt2(sequence_length=6)
    size = preprocessor.tokenizer.vocabulary_size()
    return keras_skd.Distiller(
        *(bad_input.gpt2(size, preprocessor=preprocessor) for _ in range(2))
    )


@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        [text.encode() for text in TEXTS],
        tf.constant(TEXTS),
        {"prompts": TEXTS},
        {"prompts": np.array(TEXTS)},
    ],
    ids=lambda inputs: type(inputs).__name__,
)
def test_batches(distiller, inputs):
    expected = [distiller.generate(text, sampler="greedy") for text in TEXTS]
    assert distiller.generate(inputs, sampler="greedy") == expected


@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS[0],
        TEXTS[0].encode(),
        np.array(TEXTS[0]),
        tf.constant(TEXTS[0]),
        {"prompts": TEXTS[0]},
        {"prompts": TEXTS[0], "teacher_prompts": TEXTS[0]},
    ],
    ids=lambda inputs: type(inputs).__name__,
)
def test_single_strings(distiller, inputs):
    text = distiller.generate(inputs, sampler="greedy")
    assert text == distiller.generate(TEXTS[:1], sampler="greedy")[0]
    assert text.startswith(TEXTS[0])


def test_length(distiller):
    """The rows are as long as `max_length`, the teacher's twice as long."""
    text = distiller.generate(
        {"prompts": TEXTS[0], "teacher_prompts": TEXTS[0]},
        max_length=4,
        sampler="greedy",
    )
    assert text == distiller.generate(TEXTS[0], max_length=4, sampler="greedy")
    assert distiller.generate(TEXTS[0], sampler="greedy").startswith(text)


@bad_input.cases(
    [
        (
            "a number",
            lambda m: m.generate(5),
            TypeError,
            ["`inputs`", "5", "int"],
        ),
        (
            "numbers",
            lambda m: m.generate([5, 6]),
            TypeError,
            ["`inputs`", "row 0", "5", "int"],
        ),
        (
            "a missing prompt",
            lambda m: m.generate(["Alice", None]),
            TypeError,
            ["`inputs`", "row 1", "None"],
        ),
        (
            "an unknown key",
            lambda m: m.generate({"prompt": TEXTS}),
            ValueError,
            ["`inputs`", "['prompt']", "['prompts'] is missing"],
        ),
        (
            "responses",
            lambda m: m.generate({"prompts": TEXTS, "responses": TEXTS}),
            ValueError,
            ["`inputs`", "'responses'"],
        ),
        (
            "token ids where there is a preprocessor",
            lambda m: m.generate(bad_input.IDS),
            ValueError,
            ["`inputs`", "strings", "`preprocessor`"],
        ),
        (
            "a dataset",
            lambda m: m.generate(tf.data.Dataset.from_tensor_slices(TEXTS)),
            TypeError,
            ["`inputs`", "TensorSliceDataset"],
        ),
        (
            "no prompts",
            lambda m: m.generate([]),
            ValueError,
            ["`inputs`", "no rows"],
        ),
        (
            "a prompt that leaves no room",
            lambda m: m.generate(TEXTS, max_length=2),
            ValueError,
            ["`inputs`", "row 0", "'Alice was'"],
        ),
        (
            "a string where there is no preprocessor",
            lambda m: m.generate_ids("Alice"),
            TypeError,
            ["`inputs`", "'token_ids'", "'Alice'", "str"],
        ),
        (
            "an array of token ids",
            lambda m: m.generate_ids(bad_input.IDS["token_ids"]),
            TypeError,
            ["`inputs`", "'padding_mask'", "ndarray"],
        ),
        (
            "a mask of responses",
            lambda m: m.generate_ids(
                bad_input.ids(response_mask=np.zeros((2, 8), int))
            ),
            ValueError,
            ["`inputs`", "'response_mask'"],
        ),
    ],
)
def test_bad_inputs(m, call, error, words):
    bad_input.check(m, call, error, words)
