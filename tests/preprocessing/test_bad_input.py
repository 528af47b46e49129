"""The errors of the distiller for bad data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import bad_input
from tests.support import tokenizers


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


ROWS = [{"prompts": prompt} for prompt in bad_input.PROMPTS]

# Much longer than a row.
LONG = "Would you tell me, please, which way I ought to go from here?"


def _teacher_ids(token_ids, padding_mask=None):
    if padding_mask is None:
        padding_mask = np.ones_like(token_ids)
    return bad_input.ids(
        teacher_token_ids=token_ids,
        teacher_padding_mask=np.array(padding_mask, int),
    )


def _dataset(columns):
    return tf.data.Dataset.from_tensor_slices(columns)


class Batches(keras.utils.PyDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


@bad_input.cases(
    [
        (
            "sequence_length of a string",
            lambda m: m.make(sequence_length="64"),
            TypeError,
            ["`sequence_length`", "'64'", "str"],
        ),
        (
            "sequence_length of a float",
            lambda m: m.make(sequence_length=64.0),
            TypeError,
            ["`sequence_length`", "64.0", "float"],
        ),
        (
            "sequence_length of one token",
            lambda m: m.make(sequence_length=1),
            ValueError,
            ["`sequence_length`", "at least 2", "1"],
        ),
        (
            "sequence_length that the teacher cannot read",
            lambda m: m.make(
                bad_input.gpt2(length=32),
                bad_input.gpt2(length=48),
                sequence_length=40,
            ),
            ValueError,
            ["`sequence_length`", "32", "teacher", "40"],
        ),
        (
            "sequence_length that the student cannot read",
            lambda m: m.make(
                bad_input.gpt2(length=48), bad_input.gpt2(), sequence_length=40
            ),
            ValueError,
            ["`sequence_length`", "32", "student", "40"],
        ),
        (
            "teacher_sequence_length of a float",
            lambda m: m.make(teacher_sequence_length=64.0),
            TypeError,
            ["`teacher_sequence_length`", "64.0", "float"],
        ),
        (
            "teacher_sequence_length that the teacher cannot read",
            lambda m: m.make(
                bad_input.gpt2(), bad_input.gpt2(), teacher_sequence_length=40
            ),
            ValueError,
            ["`teacher_sequence_length`", "32", "teacher", "40"],
        ),
        (
            "preprocessor of a name",
            lambda m: m.make(preprocessor="gemma"),
            TypeError,
            ["`preprocessor`", "'gemma'", "CausalLMPreprocessor"],
        ),
        (
            "preprocessor of another model",
            lambda m: m.make(preprocessor=tokenizers.gpt2()).generate_rollout(
                {"prompts": bad_input.PROMPTS}
            ),
            ValueError,
            ["`preprocessor`", "vocabulary of 32 tokens", "row 0"],
        ),
    ],
)
def test_arguments(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "no data",
            lambda m: m.fit(None),
            TypeError,
            ["`x`", "NoneType"],
        ),
        (
            "a list of numbers",
            lambda m: m.fit([1.0, 2.0]),
            TypeError,
            ["`x`", "list", '{"prompts":'],
        ),
        (
            "a list of dicts without prompts",
            lambda m: m.fit([{"text": p} for p in bad_input.PROMPTS]),
            ValueError,
            ["In `x`", "['prompts'] is missing", "['text']", "`columns`"],
        ),
        (
            "a list of dicts, one without a prompt",
            lambda m: m.fit([*ROWS, {"responses": "a"}]),
            TypeError,
            ['"prompts"', "row 2", "None"],
        ),
        (
            "a list of one dict with whole columns",
            lambda m: m.fit([bad_input.PLAIN]),
            ValueError,
            ['"prompts"', "one string per row", "(1, 2)"],
        ),
        (
            "a list of lists of rows",
            lambda m: m.fit([ROWS, ROWS]),
            TypeError,
            ["`x`", "list"],
        ),
        (
            "a generator of strings",
            lambda m: m.fit(p for p in bad_input.PROMPTS),
            TypeError,
            ["In `x`", "dict", "str"],
        ),
        (
            "a generator of rows",
            lambda m: m.fit(row for row in ROWS),
            TypeError,
            ["In `x`", '"prompts"', "'Alice was'", "batches"],
        ),
        (
            "a generator of bad batches",
            lambda m: m.write({"prompts": p} for p in (["a"], ["b"], [1])),
            TypeError,
            ["In `x`", '"prompts"', "row 0", "int"],
        ),
        (
            "a generator of pairs",
            lambda m: m.fit((bad_input.PLAIN, [1]) for _ in range(2)),
            ValueError,
            ["In `x`", "without `y`"],
        ),
        (
            "a generator of nothing",
            lambda m: m.fit(iter([])),
            ValueError,
            ["`x`", "no batch", "list_iterator"],
        ),
        (
            "validation data of a generator of nothing",
            lambda m: m.fit(bad_input.PLAIN, validation_data=(p for p in ())),
            ValueError,
            ["`validation_data`", "no batch", "generator"],
        ),
        (
            "a rollout without end",
            lambda m: m.write(_dataset(bad_input.PLAIN).batch(2).repeat()),
            ValueError,
            ["`x`", "end", "take(1)"],
        ),
        (
            "messages in tensors",
            lambda m: m.fit(_dataset({"messages": ["Hello"]}).batch(1)),
            ValueError,
            ["In `x`", "tf.data.Dataset", "messages"],
        ),
        (
            "an array",
            lambda m: m.fit_ids(bad_input.IDS["token_ids"]),
            TypeError,
            ["`x`", "ndarray"],
        ),
        (
            "validation data of a list",
            lambda m: m.fit(bad_input.PLAIN, validation_data=[1.0, 2.0]),
            TypeError,
            ["`validation_data`", "list"],
        ),
    ],
)
def test_kinds_of_data(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "no rows",
            lambda m: m.fit({"prompts": []}),
            ValueError,
            ['"prompts"', "no rows"],
        ),
        (
            "no columns",
            lambda m: m.fit({}),
            ValueError,
            ["'prompts'", "Columns found: []"],
        ),
        (
            "prompts and messages",
            lambda m: m.fit({**bad_input.PLAIN, "messages": [[], []]}),
            ValueError,
            ['"messages"', '"prompts"', "['messages', 'prompts']"],
        ),
        (
            "responses alone",
            lambda m: m.fit({"responses": bad_input.PROMPTS}),
            ValueError,
            ["'prompts'", "['responses']"],
        ),
        (
            "fewer responses than prompts",
            lambda m: m.fit(
                {"prompts": bad_input.PROMPTS, "responses": [" a"]}
            ),
            ValueError,
            ['"prompts" and "responses"', "2 prompts", "1 responses"],
        ),
        (
            "a single prompt",
            lambda m: m.write({"prompts": "Alice was"}),
            TypeError,
            ['"prompts"', "'Alice was'", "list"],
        ),
        (
            "numbers for prompts",
            lambda m: m.write({"prompts": [1, 2]}),
            TypeError,
            ['"prompts"', "row 0", "1", "int"],
        ),
        (
            "a missing response",
            lambda m: m.make(*m.with_text, empty_rows="error").generate_rollout(
                {"prompts": bad_input.PROMPTS, "responses": [" a", None]}
            ),
            ValueError,
            ["empty response", "row 1", '`empty_rows="keep"`'],
        ),
        (
            "a missing prompt of pandas",
            lambda m: m.write({"prompts": ["Alice", float("nan")]}),
            TypeError,
            ['"prompts"', "row 1", "nan", "float"],
        ),
        (
            "bytes that are no text",
            lambda m: m.write({"prompts": [b"Alice", b"\xff\xfe"]}),
            ValueError,
            ['"prompts"', "row 1", "UTF-8", r"b'\xff\xfe'"],
        ),
        (
            "prompts in two dimensions",
            lambda m: m.write(
                {"prompts": [bad_input.PROMPTS, bad_input.PROMPTS]}
            ),
            ValueError,
            ['"prompts"', "(2, 2)"],
        ),
        (
            "a prompt that leaves no room",
            lambda m: m.fit({"prompts": [bad_input.PROMPTS[0], LONG]}),
            ValueError,
            ["`sequence_length=8`", "14 tokens", "row 1", "'Would you"],
        ),
        (
            "a prompt without a token",
            lambda m: m.make(
                *m.with_text,
                preprocessor=tokenizers.gpt2(add_start_token=False),
            ).generate_rollout({"prompts": ["Alice", ""]}),
            ValueError,
            ['"prompts"', "row 1", "start token"],
        ),
        (
            "token ids where there is a preprocessor",
            lambda m: m.write(bad_input.IDS),
            ValueError,
            ["strings", "['padding_mask', 'token_ids']", "`preprocessor`"],
        ),
        (
            "strings where there is no preprocessor",
            lambda m: m.write_ids(bad_input.PLAIN),
            ValueError,
            ["token ids", "['prompts']", "`preprocessor`"],
        ),
        (
            "strings for token ids",
            lambda m: m.write_ids(bad_input.ids(token_ids=[["a"] * 8] * 2)),
            TypeError,
            ['"token_ids"', "<U1"],
        ),
        (
            "floats for token ids",
            lambda m: m.write_ids(bad_input.ids(token_ids=np.ones((2, 8)))),
            TypeError,
            ['"token_ids"', "float64"],
        ),
        (
            "token ids without a mask",
            lambda m: m.write_ids({"token_ids": bad_input.IDS["token_ids"]}),
            ValueError,
            ["'padding_mask'", "['token_ids']"],
        ),
        (
            "token ids in one dimension",
            lambda m: m.write_ids(
                {"token_ids": np.ones(4, int), "padding_mask": np.ones(4, int)}
            ),
            ValueError,
            ['"token_ids"', "(4,)"],
        ),
        (
            "a mask of another shape",
            lambda m: m.write_ids(
                bad_input.ids(padding_mask=np.ones((2, 6), int))
            ),
            ValueError,
            ['"padding_mask"', "(2, 6)", "(2, 8)"],
        ),
        (
            "rows of another length than agreed on",
            lambda m: m.make(sequence_length=6).generate_rollout(bad_input.IDS),
            ValueError,
            ["`sequence_length=6`", '"token_ids"', "(2, 8)"],
        ),
        (
            "rows that are longer than the teacher can read",
            lambda m: m.make(
                bad_input.gpt2(length=32), bad_input.llama()
            ).generate_rollout(
                {
                    k: np.pad(v, ((0, 0), (0, 32)))
                    for k, v in bad_input.IDS.items()
                }
            ),
            ValueError,
            ["`sequence_length`", "32", "teacher", "40"],
        ),
        (
            "token ids beyond the vocabulary",
            lambda m: m.write_ids(
                bad_input.ids(token_ids=[[5] * 8, [5, 32] + [0] * 6])
            ),
            ValueError,
            ['"token_ids"', "32 tokens", "row 1", "32"],
        ),
        (
            "token ids below zero",
            lambda m: m.write_ids(bad_input.ids(token_ids=[[-1] * 8, [5] * 8])),
            ValueError,
            ['"token_ids"', "row 0", "-1"],
        ),
        (
            "padding on the left",
            lambda m: m.write_ids(
                bad_input.ids(
                    padding_mask=[[1] * 3 + [0] * 5, [0] * 5 + [1] * 3]
                )
            ),
            ValueError,
            ['"padding_mask"', "right", "row 1", "[0 0 0 0 0 1 1 1]"],
        ),
        (
            "a row of padding",
            lambda m: m.write_ids(
                bad_input.ids(padding_mask=[[1] * 3 + [0] * 5, [0] * 8])
            ),
            ValueError,
            ["0 tokens", "row 1"],
        ),
        (
            "a response of the first token on",
            lambda m: m.write_ids(
                bad_input.ids(
                    padding_mask=[[1] * 4 + [0] * 4] * 2,
                    response_mask=[
                        [0, 0, 0, 1, 0, 0, 0, 0],
                        [1, 1, 1, 1, 0, 0, 0, 0],
                    ],
                )
            ),
            ValueError,
            ["0 tokens", "row 1"],
        ),
        (
            "a prompt of token ids that leaves no room",
            lambda m: m.write_ids(
                bad_input.ids(padding_mask=[[1] * 8, [1] * 3 + [0] * 5])
            ),
            ValueError,
            ["8 tokens", "row 0", "`sequence_length=8`"],
        ),
        (
            "a response in the middle of the prompt",
            lambda m: m.write_ids(
                bad_input.ids(
                    padding_mask=[[1] * 6 + [0] * 2] * 2,
                    response_mask=[
                        [0, 0, 0, 1, 1, 1, 0, 0],
                        [0, 0, 1, 1, 0, 0, 0, 0],
                    ],
                )
            ),
            ValueError,
            ['"response_mask"', "row 1", "[0 0 1 1 0 0 0 0]"],
        ),
        (
            "lists of different lengths for token ids",
            lambda m: m.write_ids(
                {**bad_input.IDS, "token_ids": [[5, 6, 7], [5, 6, 7], [5, 6]]}
            ),
            ValueError,
            ['"token_ids"', "3 values in row 0 and 2 in row 2", "Pad"],
        ),
        (
            "lists of different lengths for the prompts of the teacher",
            lambda m: m.write_ids(
                {
                    **bad_input.IDS,
                    "teacher_token_ids": [[5], [5, 6]],
                    "teacher_padding_mask": [[1, 1], [1]],
                }
            ),
            ValueError,
            ['"teacher_token_ids"', "1 values in row 0 and 2 in row 1"],
        ),
        (
            "a ragged tensor",
            lambda m: m.write_ids(
                {
                    **bad_input.IDS,
                    "token_ids": tf.ragged.constant([[5, 6], [5]]),
                }
            ),
            ValueError,
            ['"token_ids"', "2 values in row 0 and 1 in row 1"],
        ),
        (
            "a number for token ids",
            lambda m: m.write_ids({**bad_input.IDS, "token_ids": 5}),
            TypeError,
            ['"token_ids"', "5", "int"],
        ),
        (
            "lists of prompts of different lengths",
            lambda m: m.write({"prompts": [["a"], ["b", "c"]]}),
            ValueError,
            ['"prompts"', "1 values in row 0 and 2 in row 1", "one string"],
        ),
        (
            "a dict of prompts",
            lambda m: m.write({"prompts": {"a": "b"}}),
            TypeError,
            ['"prompts"', "{'a': 'b'}", "dict"],
        ),
        (
            "nothing for prompts",
            lambda m: m.write({"prompts": None}),
            TypeError,
            ['"prompts"', "None", "NoneType"],
        ),
    ],
)
def test_columns_of_data(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "fewer of them than prompts",
            lambda m: m.write(
                {"prompts": bad_input.PROMPTS, "teacher_prompts": ["a"]}
            ),
            ValueError,
            ['"teacher_prompts"', "2 prompts", "1 teacher_prompts"],
        ),
        (
            "no room for the response",
            lambda m: m.write(
                {
                    "prompts": bad_input.PROMPTS,
                    "teacher_prompts": ["Alice", LONG],
                }
            ),
            ValueError,
            ["`teacher_sequence_length=16`", "14 tokens", "row 1", "=19`"],
        ),
        (
            "longer rows than the teacher can read",
            lambda m: m.make(*m.with_text, sequence_length=20).generate_rollout(
                {
                    "prompts": bad_input.PROMPTS,
                    "teacher_prompts": bad_input.PROMPTS,
                }
            ),
            ValueError,
            ["`teacher_sequence_length`", "32", "40"],
        ),
        (
            "token ids without a mask",
            lambda m: m.write_ids(
                bad_input.ids(teacher_token_ids=np.ones((2, 9), int))
            ),
            ValueError,
            ["'teacher_padding_mask'", "'teacher_token_ids'"],
        ),
        (
            "another number of rows",
            lambda m: m.write_ids(_teacher_ids(np.ones((3, 9), int))),
            ValueError,
            ['"teacher_token_ids"', "(3, 9)", "(2, 9)"],
        ),
        (
            "padding on the left",
            lambda m: m.write_ids(
                _teacher_ids(
                    np.ones((2, 16), int), np.arange(16) >= np.array([[9], [0]])
                )
            ),
            ValueError,
            [
                '"teacher_padding_mask"',
                "right",
                "row 0",
                "[0 0 0 0 0 0 0 0 0 1",
            ],
        ),
        (
            "token ids beyond the vocabulary",
            lambda m: m.write_ids(
                _teacher_ids(
                    np.full((2, 16), 32), np.arange(16) < np.array([[4], [5]])
                )
            ),
            ValueError,
            ['"teacher_token_ids"', "32 tokens", "row 0"],
        ),
    ],
)
def test_prompts_of_the_teacher(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "single strings",
            lambda m: m.fit(_dataset(bad_input.PLAIN)),
            ValueError,
            ['"prompts"', ".batch(batch_size)"],
        ),
        (
            "numbers without a name",
            lambda m: m.fit(_dataset([1.0, 2.0]).batch(2)),
            TypeError,
            ["dict", '"prompts"', "TensorSpec"],
        ),
        (
            "pairs of prompts and targets",
            lambda m: m.fit(_dataset((bad_input.PLAIN, np.zeros(2))).batch(2)),
            ValueError,
            ["`y`"],
        ),
        (
            "pairs from a PyDataset",
            lambda m: m.fit(Batches((bad_input.PLAIN, np.zeros(2)))),
            ValueError,
            ["`y`"],
        ),
        (
            "arrays from a PyDataset",
            lambda m: m.fit(Batches(np.ones(2))),
            TypeError,
            ["dict", '"prompts"', "ndarray"],
        ),
        (
            "no batch",
            lambda m: m.fit(_dataset(bad_input.PLAIN).batch(2).take(0)),
            ValueError,
            ["empty", "no batch"],
        ),
        (
            "unknown columns",
            lambda m: m.fit(_dataset({"text": bad_input.PROMPTS}).batch(2)),
            ValueError,
            ["'prompts'", "'text'"],
        ),
        (
            "a prompt that leaves no room",
            lambda m: m.fit(_dataset({"prompts": [LONG]}).batch(1)),
            ValueError,
            ["`sequence_length=8`", "14 tokens", "row 0"],
        ),
    ],
)
def test_datasets(m, call, error, words):
    bad_input.check(m, call, error, words)
