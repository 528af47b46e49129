"""What the library says when it is used wrongly.

Every message names the argument, and shows what was received.
"""

import types

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import keras_skd
from keras_skd import rollouts
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm

LENGTH = 8
TINY = dict(
    num_layers=1,
    num_query_heads=2,
    num_key_value_heads=1,
    hidden_dim=8,
    intermediate_dim=8,
)


def _llama(**kwargs):
    return causal_lm("llama", **{**TINY, **kwargs})


def _bert_classifier():
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=32,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=8,
    )
    return keras_hub.models.BertTextClassifier(backbone, num_classes=2)


def _gpt2(size=32, length=32, **kwargs):
    return causal_lm(
        "gpt2",
        vocabulary_size=size,
        num_layers=1,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=length,
        **kwargs,
    )


def _rwkv7():
    return causal_lm(
        "rwkv7",
        num_layers=1,
        hidden_size=8,
        head_size=4,
        intermediate_dim=8,
        gate_lora=4,
        mv_lora=4,
        aaa_lora=4,
        decay_lora=4,
    )


def _preprocessor(vocabulary):
    merged = {"aa": max(vocabulary.values()) + 1}
    vocabulary = {"<|endoftext|>": 0, **vocabulary, **merged}
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary, merges=["a a"])
    return keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=LENGTH
    )


@pytest.fixture(scope="module")
def m():
    """Models that fit together, and distillers of strings and of ids."""
    preprocessor = tokenizers.gpt2(sequence_length=LENGTH)
    size = preprocessor.tokenizer.vocabulary_size()
    teacher, student = _llama(), _llama()
    with_text = [_gpt2(size, preprocessor=preprocessor) for _ in range(2)]
    ids = keras_skd.Distiller(teacher, student)
    strings = keras_skd.Distiller(*with_text)
    ids.compile()
    strings.compile()
    return types.SimpleNamespace(
        teacher=teacher,
        student=student,
        make=lambda *args, **kwargs: keras_skd.Distiller(
            *(args or (teacher, student)), **kwargs
        ),
        with_text=with_text,
        fit_ids=lambda x, **kwargs: ids.fit(x, verbose=0, **kwargs),
        fit=lambda x, **kwargs: strings.fit(x, verbose=0, **kwargs),
        write_ids=ids.generate_rollout,
        write=strings.generate_rollout,
        speculative=lambda **kwargs: rollouts.Speculative(**kwargs),
        compile=strings.compile,
    )


def _check(m, call, error, words):
    with pytest.raises(error) as info:
        call(m)
    # Not a subclass, such as UnicodeDecodeError, that just happened.
    assert info.type is error
    for word in words:
        assert word in str(info.value), str(info.value)


def _cases(cases):
    return pytest.mark.parametrize(
        "call, error, words",
        [case[1:] for case in cases],
        ids=[case[0] for case in cases],
    )


@_cases(
    [
        (
            "nothing",
            lambda m: m.make(None, m.student),
            TypeError,
            ["`teacher`", "None", "keras_hub.models.CausalLM"],
        ),
        (
            "the name of a preset",
            lambda m: m.make("gemma3_1b", m.student),
            TypeError,
            ["`teacher`", "'gemma3_1b'", "from_preset"],
        ),
        (
            "another Keras model",
            lambda m: m.make(m.teacher, keras.Sequential()),
            TypeError,
            ["`student`", "Sequential"],
        ),
        (
            "a backbone",
            lambda m: m.make(m.teacher.backbone, m.student),
            TypeError,
            ["`teacher`", "LlamaBackbone", "backbone=backbone"],
        ),
        (
            "a classifier",
            lambda m: m.make(m.teacher, _bert_classifier()),
            TypeError,
            ["`student`", "BertTextClassifier"],
        ),
        (
            "one model twice",
            lambda m: m.make(m.teacher, m.teacher),
            ValueError,
            ["`teacher` and `student`", "share"],
        ),
        (
            "one backbone twice",
            lambda m: m.make(
                m.teacher,
                keras_hub.models.LlamaCausalLM(m.teacher.backbone, None),
            ),
            ValueError,
            ["`teacher` and `student`", "share", "variables"],
        ),
        (
            "vocabularies of two sizes",
            lambda m: m.make(m.teacher, _llama(vocabulary_size=40)),
            ValueError,
            ["`teacher` and `student`", "32", "40"],
        ),
        (
            "tokenizers with other tokens",
            lambda m: m.make(
                *(
                    _gpt2(preprocessor=_preprocessor(vocabulary))
                    for vocabulary in (
                        {"a": 1, "b": 2, "c": 3},
                        {"a": 1, "e": 2, "f": 3},
                    )
                )
            ),
            ValueError,
            ["`teacher` and `student`", "id 2", "'b'", "'e'"],
        ),
        (
            "tokenizers with other ids",
            lambda m: m.make(
                *(
                    _gpt2(preprocessor=_preprocessor(vocabulary))
                    for vocabulary in (
                        {"a": 1, "b": 2, "c": 3},
                        {"a": 1, "b": 3, "c": 2},
                    )
                )
            ),
            ValueError,
            ["`teacher` and `student`", "id 2", "'b'", "'c'"],
        ),
        (
            "a tokenizer with more tokens",
            lambda m: m.make(
                *(
                    _gpt2(preprocessor=_preprocessor(vocabulary))
                    for vocabulary in (
                        {"a": 1, "b": 2, "c": 4},
                        {"a": 1, "b": 2},
                    )
                )
            ),
            ValueError,
            ["`teacher` and `student`", "of 5 tokens", "of 4."],
        ),
    ],
)
def test_models(m, call, error, words):
    _check(m, call, error, words)


@_cases(
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
                _gpt2(length=32), _gpt2(length=48), sequence_length=40
            ),
            ValueError,
            ["`sequence_length`", "32", "teacher", "40"],
        ),
        (
            "sequence_length that the student cannot read",
            lambda m: m.make(_gpt2(length=48), _gpt2(), sequence_length=40),
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
            lambda m: m.make(_gpt2(), _gpt2(), teacher_sequence_length=40),
            ValueError,
            ["`teacher_sequence_length`", "32", "teacher", "40"],
        ),
        (
            "stop_token_ids of a string",
            lambda m: m.make(stop_token_ids="<eos>"),
            TypeError,
            ["`stop_token_ids`", "'<eos>'"],
        ),
        (
            "stop_token_ids of an int",
            lambda m: m.make(stop_token_ids=3),
            TypeError,
            ["`stop_token_ids`", "3"],
        ),
        (
            "stop_token_ids of floats",
            lambda m: m.make(stop_token_ids=(3.0,)),
            TypeError,
            ["`stop_token_ids`", "(3.0,)"],
        ),
        (
            "stop_token_ids beyond the vocabulary",
            lambda m: m.make(stop_token_ids=(3, 32)),
            ValueError,
            ["`stop_token_ids`", "32 tokens", "Received: 32"],
        ),
        (
            "stop_token_ids below zero",
            lambda m: m.make(stop_token_ids=(-1,)),
            ValueError,
            ["`stop_token_ids`", "Received: -1"],
        ),
        (
            "seed of a string",
            lambda m: m.make(seed="1"),
            TypeError,
            ["`seed`", "'1'", "str"],
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
                {"prompts": PROMPTS}
            ),
            ValueError,
            ["`preprocessor`", "vocabulary of 32 tokens", "row 0"],
        ),
        (
            "rollout of an unknown name",
            lambda m: m.make(rollout="speculativ"),
            ValueError,
            ["`rollout`", "'speculativ'", "Did you mean 'speculative'?"],
        ),
        (
            "rollout of a sampler",
            lambda m: m.make(rollout=keras_hub.samplers.GreedySampler()),
            TypeError,
            ["`rollout`", "GreedySampler"],
        ),
        (
            "rollout that cannot take back what a recurrent model read",
            lambda m: m.make(
                _rwkv7(), m.student, m.speculative(decoding="ragged")
            ).generate_rollout(IDS),
            ValueError,
            ["`decoding='ragged'`", "RWKV7CausalLM", "'lockstep'"],
        ),
    ],
)
def test_arguments(m, call, error, words):
    _check(m, call, error, words)


@_cases(
    [
        (
            "acceptance of an unknown name",
            lambda m: m.speculative(acceptance="top"),
            ValueError,
            ["`acceptance`", "'top'", "top_k"],
        ),
        (
            "acceptance of an int",
            lambda m: m.speculative(acceptance=25),
            TypeError,
            ["`acceptance`", "25", "int"],
        ),
        (
            "k of zero",
            lambda m: keras_skd.acceptance.TopK(0),
            ValueError,
            ["`k`", "at least 1", "0"],
        ),
        (
            "k of a float",
            lambda m: keras_skd.acceptance.TopK(2.5),
            TypeError,
            ["`k`", "2.5", "float"],
        ),
        (
            "num_speculative_tokens of zero",
            lambda m: m.speculative(num_speculative_tokens=0),
            ValueError,
            ["`num_speculative_tokens`", "at least 1", "0"],
        ),
        (
            "num_speculative_tokens of a float",
            lambda m: m.speculative(num_speculative_tokens=5.0),
            TypeError,
            ["`num_speculative_tokens`", "5.0", "float"],
        ),
        (
            "decoding of an unknown name",
            lambda m: m.speculative(decoding="beam"),
            ValueError,
            ["`decoding`", "'beam'", "'ragged'", "'lockstep'"],
        ),
        (
            "student_sampler of an unknown name",
            lambda m: m.speculative(student_sampler="gredy"),
            ValueError,
            ["`student_sampler`", "'gredy'", "'greedy'"],
        ),
        (
            "teacher_sampler of a number",
            lambda m: m.speculative(teacher_sampler=0.7),
            TypeError,
            ["`teacher_sampler`", "0.7", "float"],
        ),
        (
            "student_sampler that plans ahead",
            lambda m: rollouts.OnPolicy(keras_hub.samplers.BeamSampler()),
            ValueError,
            ["`student_sampler`", "BeamSampler"],
        ),
        (
            "loss of an unknown name",
            lambda m: m.compile(loss="forward_k"),
            ValueError,
            ["`loss`", "'forward_k'", "Did you mean 'forward_kl'?"],
        ),
        (
            "loss of Keras",
            lambda m: m.compile(loss=keras.losses.KLDivergence()),
            TypeError,
            ["KLDivergence", "forward_kl"],
        ),
        (
            "loss of a function",
            lambda m: m.compile(loss=lambda y_true, y_pred: 0.0),
            TypeError,
            ["`loss`", "function"],
        ),
        (
            "loss that is not reduced",
            lambda m: m.compile(
                loss=keras_skd.losses.ForwardKL(reduction="none")
            ),
            ValueError,
            ["`loss`", "forward_kl", "reduction='none'"],
        ),
    ],
)
def test_parts(m, call, error, words):
    _check(m, call, error, words)


PROMPTS = ["Alice was", "said the"]
PLAIN = {"prompts": PROMPTS}
IDS = {
    "token_ids": np.array([[5, 6, 0, 0, 0, 0, 0, 0]] * 2),
    "padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2),
}
# Longer than a row by far.
LONG = "Would you tell me, please, which way I ought to go from here?"


def _ids(**kwargs):
    return {**IDS, **{k: np.array(v) for k, v in kwargs.items()}}


def _teacher_ids(token_ids, padding_mask=None):
    if padding_mask is None:
        padding_mask = np.ones_like(token_ids)
    return _ids(
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


@_cases(
    [
        (
            "no data",
            lambda m: m.fit(None),
            TypeError,
            ["`x`", "NoneType"],
        ),
        (
            "a list of strings",
            lambda m: m.fit(PROMPTS),
            TypeError,
            ["`x`", "list", '{"prompts":'],
        ),
        (
            "a list of dicts",
            lambda m: m.fit([{"prompts": p} for p in PROMPTS]),
            TypeError,
            ["`x`", "list", '{"prompts":'],
        ),
        (
            "a list of one dict with one string",
            lambda m: m.fit([{"prompts": PROMPTS[0]}]),
            TypeError,
            ['"prompts"', "'Alice was'", "list"],
        ),
        (
            "a generator",
            lambda m: m.fit(PLAIN for _ in range(2)),
            TypeError,
            ["`x`", "generator"],
        ),
        (
            "an array",
            lambda m: m.fit_ids(IDS["token_ids"]),
            TypeError,
            ["`x`", "ndarray"],
        ),
        (
            "validation data of a list",
            lambda m: m.fit(PLAIN, validation_data=PROMPTS),
            TypeError,
            ["`validation_data`", "list"],
        ),
        (
            "targets",
            lambda m: m.fit(PLAIN, y=np.zeros(2)),
            ValueError,
            ["`x`, and no `y`", "array([0., 0.])"],
        ),
        (
            "validation data with targets",
            lambda m: m.fit(PLAIN, validation_data=(PLAIN, np.zeros(2))),
            TypeError,
            ["`validation_data`", "tuple"],
        ),
        (
            "sample weights",
            lambda m: m.fit(PLAIN, sample_weight=np.ones(2)),
            ValueError,
            ["`sample_weight`", "array([1., 1.])"],
        ),
        (
            "class weights",
            lambda m: m.fit(PLAIN, class_weight={0: 1.0}),
            ValueError,
            ["`class_weight`", "{0: 1.0}"],
        ),
        (
            "no responses for a rollout that needs them",
            lambda m: m.make(
                *m.with_text, rollout="supervised"
            ).generate_rollout(PLAIN),
            ValueError,
            ["`rollout=Supervised`", '"responses"'],
        ),
        (
            "no compile",
            lambda m: m.make().fit(IDS),
            ValueError,
            ["compile()"],
        ),
    ],
)
def test_kinds_of_data(m, call, error, words):
    _check(m, call, error, words)


@_cases(
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
            ["'prompts'", "Received the keys: []"],
        ),
        (
            "unknown columns",
            lambda m: m.fit({"prompts": PROMPTS, "answers": PROMPTS}),
            ValueError,
            ["'prompts', 'responses'", "'answers'"],
        ),
        (
            "responses alone",
            lambda m: m.fit({"responses": PROMPTS}),
            ValueError,
            ["'prompts'", "['responses']"],
        ),
        (
            "fewer responses than prompts",
            lambda m: m.fit({"prompts": PROMPTS, "responses": [" a"]}),
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
            lambda m: m.write({"prompts": PROMPTS, "responses": [" a", None]}),
            TypeError,
            ['"responses"', "row 1", "None"],
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
            lambda m: m.write({"prompts": [PROMPTS, PROMPTS]}),
            ValueError,
            ['"prompts"', "(2, 2)"],
        ),
        (
            "a prompt that leaves no room",
            lambda m: m.fit({"prompts": [PROMPTS[0], LONG]}),
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
            lambda m: m.write(IDS),
            ValueError,
            ["strings", "['padding_mask', 'token_ids']", "`preprocessor`"],
        ),
        (
            "strings where there is no preprocessor",
            lambda m: m.write_ids(PLAIN),
            ValueError,
            ["token ids", "['prompts']", "`preprocessor`"],
        ),
        (
            "strings for token ids",
            lambda m: m.write_ids(_ids(token_ids=[["a"] * 8] * 2)),
            TypeError,
            ['"token_ids"', "<U1"],
        ),
        (
            "floats for token ids",
            lambda m: m.write_ids(_ids(token_ids=np.ones((2, 8)))),
            TypeError,
            ['"token_ids"', "float64"],
        ),
        (
            "token ids without a mask",
            lambda m: m.write_ids({"token_ids": IDS["token_ids"]}),
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
            lambda m: m.write_ids(_ids(padding_mask=np.ones((2, 6), int))),
            ValueError,
            ['"padding_mask"', "(2, 6)", "(2, 8)"],
        ),
        (
            "rows of another length than agreed on",
            lambda m: m.make(sequence_length=6).generate_rollout(IDS),
            ValueError,
            ["`sequence_length=6`", '"token_ids"', "(2, 8)"],
        ),
        (
            "rows that are longer than the teacher can read",
            lambda m: m.make(_gpt2(length=32), _llama()).generate_rollout(
                {k: np.pad(v, ((0, 0), (0, 32))) for k, v in IDS.items()}
            ),
            ValueError,
            ["`sequence_length`", "32", "teacher", "40"],
        ),
        (
            "token ids beyond the vocabulary",
            lambda m: m.write_ids(_ids(token_ids=[[5] * 8, [5, 32] + [0] * 6])),
            ValueError,
            ['"token_ids"', "32 tokens", "row 1", "32"],
        ),
        (
            "token ids below zero",
            lambda m: m.write_ids(_ids(token_ids=[[-1] * 8, [5] * 8])),
            ValueError,
            ['"token_ids"', "row 0", "-1"],
        ),
        (
            "padding on the left",
            lambda m: m.write_ids(
                _ids(padding_mask=[[1] * 3 + [0] * 5, [0] * 5 + [1] * 3])
            ),
            ValueError,
            ['"padding_mask"', "right", "row 1", "[0 0 0 0 0 1 1 1]"],
        ),
        (
            "a row of padding",
            lambda m: m.write_ids(
                _ids(padding_mask=[[1] * 3 + [0] * 5, [0] * 8])
            ),
            ValueError,
            ["0 tokens", "row 1"],
        ),
        (
            "a response of the first token on",
            lambda m: m.write_ids(
                _ids(
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
                _ids(padding_mask=[[1] * 8, [1] * 3 + [0] * 5])
            ),
            ValueError,
            ["8 tokens", "row 0", "`sequence_length=8`"],
        ),
        (
            "a response in the middle of the prompt",
            lambda m: m.write_ids(
                _ids(
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
    ],
)
def test_columns_of_data(m, call, error, words):
    _check(m, call, error, words)


@_cases(
    [
        (
            "fewer of them than prompts",
            lambda m: m.write({"prompts": PROMPTS, "teacher_prompts": ["a"]}),
            ValueError,
            ['"teacher_prompts"', "2 prompts", "1 teacher_prompts"],
        ),
        (
            "no room for the response",
            lambda m: m.write(
                {"prompts": PROMPTS, "teacher_prompts": ["Alice", LONG]}
            ),
            ValueError,
            ["`teacher_sequence_length=16`", "14 tokens", "row 1", "=19`"],
        ),
        (
            "longer rows than the teacher can read",
            lambda m: m.make(*m.with_text, sequence_length=20).generate_rollout(
                {"prompts": PROMPTS, "teacher_prompts": PROMPTS}
            ),
            ValueError,
            ["`teacher_sequence_length`", "32", "40"],
        ),
        (
            "token ids without a mask",
            lambda m: m.write_ids(_ids(teacher_token_ids=np.ones((2, 9), int))),
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
    _check(m, call, error, words)


@_cases(
    [
        (
            "single strings",
            lambda m: m.fit(_dataset(PLAIN)),
            ValueError,
            ['"prompts"', ".batch(batch_size)"],
        ),
        (
            "strings without a name",
            lambda m: m.fit(_dataset(PROMPTS).batch(2)),
            TypeError,
            ["dict", '"prompts"', "TensorSpec"],
        ),
        (
            "pairs of prompts and targets",
            lambda m: m.fit(_dataset((PLAIN, np.zeros(2))).batch(2)),
            ValueError,
            ["`y`"],
        ),
        (
            "pairs from a PyDataset",
            lambda m: m.fit(Batches((PLAIN, np.zeros(2)))),
            ValueError,
            ["`y`"],
        ),
        (
            "arrays from a PyDataset",
            lambda m: m.fit(Batches(np.array(PROMPTS))),
            TypeError,
            ["dict", '"prompts"', "ndarray"],
        ),
        (
            "no batch",
            lambda m: m.fit(_dataset(PLAIN).batch(2).take(0)),
            ValueError,
            ["empty", "no batch"],
        ),
        (
            "unknown columns",
            lambda m: m.fit(_dataset({"text": PROMPTS}).batch(2)),
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
    _check(m, call, error, words)


def test_nothing_is_half_done_after_an_error():
    class Echo(rollouts.Supervised):
        """Quick to compile."""

    distiller = keras_skd.Distiller(_llama(), _llama(), rollout=Echo())
    distiller.compile(optimizer="sgd")
    response_mask = np.array([[0, 1, 1, 1, 0, 0, 0, 0]] * 2)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0, 0]] * 2)
    data = _ids(response_mask=response_mask, padding_mask=mask)
    loss = distiller.evaluate(data, verbose=0)
    before = [np.array(w) for w in distiller.student.get_weights()]
    for call in (
        lambda: distiller.fit({"prompts": PROMPTS}),
        lambda: distiller.fit(IDS),
        lambda: distiller.fit(data, validation_data=PROMPTS),
        lambda: distiller.evaluate(data, y=mask),
        lambda: distiller.generate_rollout(_ids(padding_mask=mask[:, ::-1])),
        lambda: distiller.compile(loss="forward_k"),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    for old, new in zip(before, distiller.student.get_weights()):
        np.testing.assert_array_equal(old, new)
    assert distiller.evaluate(data, verbose=0) == loss
    history = distiller.fit(data, verbose=0).history
    assert history["loss"] == pytest.approx([loss], rel=1e-5)
