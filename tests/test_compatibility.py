"""Teachers and students that do not fit together."""

import keras
import keras_hub
import pytest

from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


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


def _preprocessor(vocabulary):
    merged = {"aa": max(vocabulary.values()) + 1}
    vocabulary = {"<|endoftext|>": 0, **vocabulary, **merged}
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary, merges=["a a"])
    return keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=bad_input.LENGTH
    )


@bad_input.cases(
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
            lambda m: m.make(m.teacher, bad_input.llama(vocabulary_size=40)),
            ValueError,
            ["`teacher` and `student`", "32", "40"],
        ),
        (
            "tokenizers with other tokens",
            lambda m: m.make(
                *(
                    bad_input.gpt2(preprocessor=_preprocessor(vocabulary))
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
                    bad_input.gpt2(preprocessor=_preprocessor(vocabulary))
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
                    bad_input.gpt2(preprocessor=_preprocessor(vocabulary))
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
    bad_input.check(m, call, error, words)
