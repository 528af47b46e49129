"""Heads of different sizes: tokens of only one model count as absent."""

import keras
import numpy as np
import pytest

import keras_skd
from keras_skd import losses
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

SIZE, LARGER = 32, 40
BATCH = prompts([1, 2, 3, 5], 16, vocabulary_size=SIZE)


def _models(architecture):
    """A model with the larger head, and a copy with a smaller head."""
    larger = random_causal_lm(
        architecture, 1, num_layers=1, vocabulary_size=LARGER
    )
    cut = random_causal_lm(architecture, 1, num_layers=1, vocabulary_size=SIZE)
    for weight, whole in zip(cut.weights, larger.weights):
        value = keras.ops.convert_to_numpy(whole)
        weight.assign(value[tuple(slice(n) for n in weight.shape)])
    return larger, cut


def _pair(role, model, architecture="llama"):
    other = random_causal_lm(
        architecture, 2, num_layers=1, vocabulary_size=SIZE
    )
    return (model, other) if role == "teacher" else (other, model)


@pytest.mark.parametrize(
    ("role", "architecture", "rollout"),
    [
        (
            "teacher",
            "llama",
            lambda: rollouts.Speculative("lossless", num_speculative_tokens=2),
        ),
        (
            "student",
            "gemma2",
            lambda: rollouts.Speculative(
                keras_skd.acceptance.TopK(9), num_speculative_tokens=2
            ),
        ),
        (
            "student",
            "gpt2",
            lambda: rollouts.Mixture({"teacher": 1, "on_policy": 1}),
        ),
    ],
)
def test_it_is_as_if_the_head_were_cut(role, architecture, rollout):
    written, scores, texts = [], [], []
    for model in _models(architecture):
        distiller = keras_skd.Distiller(
            *_pair(role, model, architecture),
            rollout=rollout(),
            vocabulary_size=SIZE,
            seed=1,
        )
        distiller.compile(
            optimizer=keras.optimizers.SGD(0.1),
            loss=losses.GeneralizedJSD(top_k_targets=5),
            loss_chunk_size=8,
        )
        written.append(distiller.generate_rollout(BATCH))
        data = {
            key: written[0][key]
            for key in ("token_ids", "padding_mask", "response_mask")
        }
        scores.append(distiller.evaluate(data, verbose=0))
        history = distiller.fit(BATCH, epochs=2, verbose=0).history
        scores[-1] = [*scores[-1], *history["loss"]]
        if rollout().is_speculative:
            texts.append(distiller.generate(BATCH)["token_ids"])
    for key, value in written[0].items():
        np.testing.assert_array_equal(value, written[1][key])
    assert written[0]["token_ids"].max() < SIZE
    np.testing.assert_allclose(*scores, rtol=1e-4)
    if texts:
        np.testing.assert_array_equal(*texts)


def test_it_is_asked_for_without_tokenizers():
    larger, _ = _models("llama")
    with pytest.raises(ValueError, match="vocabulary_size"):
        keras_skd.Distiller(*_pair("teacher", larger))
    with pytest.raises(ValueError, match="vocabulary_size"):
        keras_skd.Distiller(*_pair("teacher", larger), vocabulary_size=SIZE + 1)
