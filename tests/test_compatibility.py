"""Teachers and students that do not fit together."""

import keras
import keras_hub
import pytest

import keras_skd
from keras_skd._compatibility import shared_vocabulary_size
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
            lambda m: m.make(m.teacher, None),
            TypeError,
            ["`student`", "None", "keras_hub.models.CausalLM"],
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


# Heads that are padded to different sizes, over the same tokenizer.


def _pair(sizes, preprocessors):
    return [
        bad_input.gpt2(size, preprocessor=preprocessor)
        for size, preprocessor in zip(sizes, preprocessors)
    ]


@pytest.mark.parametrize("sizes", [(40, 48), (48, 40), (40, 40)])
def test_the_vocabulary_is_that_of_the_smaller_head(sizes):
    # Two tokenizers of one vocabulary, as from two presets.
    preprocessors = [_preprocessor({"a": 1, "b": 2}) for _ in range(2)]
    pair = _pair(sizes, preprocessors)
    assert shared_vocabulary_size(*pair) == 40
    assert shared_vocabulary_size(*pair, vocabulary_size=36) == 36
    distiller = keras_skd.Distiller(*pair)
    assert distiller.vocabulary_size == 40


def test_without_tokenizers_the_vocabulary_is_asked_for():
    pair = _pair((40, 48), (None, None))
    assert shared_vocabulary_size(*pair, vocabulary_size=40) == 40
    distiller = keras_skd.Distiller(*pair, vocabulary_size=40)
    assert distiller.vocabulary_size == 40
    # Token ids and stop tokens are checked against it.
    with pytest.raises(ValueError, match="vocabulary of 40 tokens.*the id 40"):
        distiller.generate_rollout(bad_input.ids(token_ids=[[40] * 8] * 2))
    with pytest.raises(ValueError, match="vocabulary of 40 tokens"):
        keras_skd.Distiller(*pair, vocabulary_size=40, stop_token_ids=(40,))
    # The tokenizer of one model alone cannot be compared.
    pair = _pair((40, 48), (_preprocessor({"a": 1}), None))
    with pytest.raises(ValueError, match="no tokenizers to compare"):
        shared_vocabulary_size(*pair)


@bad_input.cases(
    [
        (
            "sizes that nobody asked for",
            lambda m: m.make(m.teacher, bad_input.llama(vocabulary_size=40)),
            ValueError,
            ["teacher of 32", "student of 40", "`vocabulary_size=32`"],
        ),
        (
            "more than the smaller head has",
            lambda m: m.make(
                m.teacher,
                bad_input.llama(vocabulary_size=40),
                vocabulary_size=33,
            ),
            ValueError,
            ["`vocabulary_size`", "at most 32", "33"],
        ),
        (
            "no token",
            lambda m: m.make(vocabulary_size=0),
            ValueError,
            ["`vocabulary_size`", "at least 2", "0"],
        ),
        (
            "a float",
            lambda m: m.make(vocabulary_size=32.0),
            TypeError,
            ["`vocabulary_size`", "32.0", "float"],
        ),
        (
            "True",
            lambda m: m.make(vocabulary_size=True),
            TypeError,
            ["`vocabulary_size`", "True", "bool"],
        ),
    ],
)
def test_vocabulary_size(m, call, error, words):
    bad_input.check(m, call, error, words)
