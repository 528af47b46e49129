"""Multimodal models, distilled on text alone."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from keras_hub.src.models.gemma3.gemma3_vision_encoder import (
    Gemma3VisionEncoder,
)

import keras_skd
from tests.support import writing

LENGTH = 8
STOP = 3
SIZE = 16


def _gemma3(seed, sees):
    vision_encoder = None
    if sees:
        vision_encoder = Gemma3VisionEncoder(
            image_size=SIZE,
            patch_size=4,
            num_heads=2,
            hidden_dim=8,
            num_layers=1,
            intermediate_dim=8,
            output_dim=16,
            pool_size=2,
        )
    return writing.random_causal_lm(
        "gemma3",
        seed=seed,
        num_layers=1,
        image_size=SIZE,
        vision_encoder=vision_encoder,
    )


@pytest.fixture(scope="module")
def models():
    """A multimodal teacher and student, and the same two without vision."""
    seeing = [_gemma3(seed, sees=True) for seed in (1, 2)]
    blind = [_gemma3(seed, sees=False) for seed in (1, 2)]
    for source, target in zip(seeing, blind):
        weights = {_name(w): ops.convert_to_numpy(w) for w in source.weights}
        for weight in target.weights:
            weight.assign(weights[_name(weight)])
    return seeing, blind


def _name(weight):
    return weight.path.split("/", 1)[1]


def _arrays(layer):
    return [np.array(ops.convert_to_numpy(w)) for w in layer.weights]


def _data():
    prompts = writing.prompts([2, 3, 4], LENGTH)
    return {
        **prompts,
        "token_ids": np.where(prompts["token_ids"], prompts["token_ids"], 9),
        "padding_mask": np.ones((3, LENGTH), "int32"),
        "response_mask": 1 - prompts["padding_mask"],
    }


def _train(teacher, student, **kwargs):
    distiller = keras_skd.Distiller(
        teacher, student, "supervised", stop_token_ids=(STOP,)
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0), **kwargs)
    return distiller.fit(
        _data(), validation_data=_data(), batch_size=3, verbose=0
    ).history


@pytest.mark.parametrize("who", ["teacher", "student", "both"])
def test_losses_are_those_of_the_text_model(models, who):
    seeing, blind = models
    pair = [
        (seeing if who in (name, "both") else blind)[i]
        for i, name in enumerate(["teacher", "student"])
    ]
    # Also where hidden states of layers are read.
    hidden_state_loss = keras_skd.losses.HiddenStateL1(
        {"decoder_block_0": "decoder_block_0"}
    )
    history = _train(*pair, hidden_state_loss=hidden_state_loss)
    expected = _train(*blind, hidden_state_loss=hidden_state_loss)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert history["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)


def test_rollouts_are_scored(models):
    distiller = keras_skd.Distiller(*models[0], stop_token_ids=(STOP,), seed=1)
    distiller.compile(optimizer=keras.optimizers.AdamW(1e-2, 0.5))
    backbone = distiller.student.backbone
    before = _arrays(backbone), _arrays(backbone.vision_encoder)
    history = distiller.fit(
        writing.prompts([2, 3, 4], LENGTH), verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    assert history["response_length"][0] > 0
    after = _arrays(backbone), _arrays(backbone.vision_encoder)
    assert any((x != y).any() for x, y in zip(before[0], after[0]))
    # Weights that text does not use are not even decayed.
    for x, y in zip(before[1], after[1]):
        np.testing.assert_array_equal(x, y)


def test_gemma4_takes_positions():
    """Gemma 4 also needs `position_ids` for text."""
    backbone = keras_hub.models.Gemma4Backbone(
        vocabulary_size=32,
        image_size=SIZE,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=8,
        head_dim=4,
    )
    model = keras_hub.models.Gemma4CausalLM(
        backbone=backbone, preprocessor=None
    )
    x = writing.prompts([LENGTH] * 2, LENGTH)
    positions = np.tile(np.arange(LENGTH, dtype="int32"), (2, 1))
    expected = backbone({**x, "position_ids": positions})
    states = keras_skd.decoding.CachedCausalLM(model).hidden_states(
        *map(ops.convert_to_tensor, x.values())
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(states), ops.convert_to_numpy(expected), atol=1e-5
    )
