"""Checks of the errors for wrong uses, with tiny distillers.

Every message names the argument, and shows what was received.
"""

import types

import numpy as np
import pytest

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
PROMPTS = ["Alice was", "said the"]
PLAIN = {"prompts": PROMPTS}
IDS = {
    "token_ids": np.array([[5, 6, 0, 0, 0, 0, 0, 0]] * 2),
    "padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2),
}


def llama(**kwargs):
    return causal_lm("llama", **{**TINY, **kwargs})


def gpt2(size=32, length=32, **kwargs):
    return causal_lm(
        "gpt2",
        vocabulary_size=size,
        num_layers=1,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=length,
        **kwargs,
    )


def rwkv7():
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


def ids(**kwargs):
    return {**IDS, **{k: np.array(v) for k, v in kwargs.items()}}


def distillers():
    """Compatible models, and distillers of strings and of ids."""
    preprocessor = tokenizers.gpt2(sequence_length=LENGTH)
    size = preprocessor.tokenizer.vocabulary_size()
    teacher, student = llama(), llama()
    with_text = [gpt2(size, preprocessor=preprocessor) for _ in range(2)]
    of_ids = keras_skd.Distiller(teacher, student)
    of_strings = keras_skd.Distiller(*with_text)
    of_ids.compile()
    of_strings.compile()
    return types.SimpleNamespace(
        teacher=teacher,
        student=student,
        make=lambda *args, **kwargs: keras_skd.Distiller(
            *(args or (teacher, student)), **kwargs
        ),
        with_text=with_text,
        fit_ids=lambda x, **kwargs: of_ids.fit(x, verbose=0, **kwargs),
        fit=lambda x, **kwargs: of_strings.fit(x, verbose=0, **kwargs),
        write_ids=of_ids.generate_rollout,
        write=of_strings.generate_rollout,
        speculative=lambda **kwargs: rollouts.Speculative(**kwargs),
        compile=of_strings.compile,
        generate=of_strings.generate,
        generate_ids=of_ids.generate,
        train_on_batch=of_strings.train_on_batch,
        test_on_batch=of_strings.test_on_batch,
        call=of_strings,
        predict=of_strings.predict,
        predict_on_batch=of_strings.predict_on_batch,
    )


def check(m, call, error, words):
    with pytest.raises(error) as info:
        call(m)
    # Not an accidental error of a subclass, such as UnicodeDecodeError.
    assert info.type is error
    for word in words:
        assert word in str(info.value), str(info.value)


def cases(cases):
    return pytest.mark.parametrize(
        "call, error, words",
        [case[1:] for case in cases],
        ids=[case[0] for case in cases],
    )
