"""Quantized models: cached decoding, and training through LoRA."""

import gc

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd.decoding import CachedCausalLM
from tests.support.algorithm_1 import write_greedily
from tests.support.causal_lms import VOCABULARY_SIZE
from tests.support.writing import compiled
from tests.support.writing import forward
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm
from tests.support.writing import write

# Most layers have no kernel to quantize, and warn about that.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer .* does not have a .quantize. method"
)

LENGTH = 10
STARTS = np.array([0, 2, 5], "int32")
PROMPTS = prompts((1, 3, 4), LENGTH)


# TensorFlow 2.21's XLA generates invalid code for a product of int8 matrices
# whose result is narrow, as in smaller models.
SIZES = {"num_layers": 1, "hidden_dim": 32, "intermediate_dim": 64}


def quantized(architecture, mode, seed=0, rank=None, filters=None):
    sizes = {**SIZES, **({"head_dim": 32} if architecture == "gemma" else {})}
    model = random_causal_lm(architecture, seed, **sizes)
    gc.freeze()  # Keras collects garbage for each kernel that it replaces.
    model.quantize(mode, filters=filters)
    gc.unfreeze()
    if rank is not None:
        model.backbone.enable_lora(rank)
    return model


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_cached_logits_are_the_uncached_ones(architecture, mode):
    model = quantized(architecture, mode)
    lm = CachedCausalLM(model)
    token_ids = np.random.default_rng(0).integers(
        1, VOCABULARY_SIZE, (len(STARTS), LENGTH)
    )

    def read(token_ids, columns, starts):
        cache = lm.empty_cache(len(STARTS), LENGTH)
        cache = lm.prefill(token_ids, cache, 0, LENGTH)
        return lm.extend_rows(columns, cache, starts)[0]

    columns = STARTS[:, None] + np.arange(3)
    actual = compiled(read)(
        token_ids, np.take_along_axis(token_ids, columns, 1), STARTS
    )
    logits = forward(model)(token_ids)
    expected = np.take_along_axis(logits, columns[..., None], 1)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("decoding", ["auto", "lockstep"])
def test_speculation_is_algorithm_1(decoding):
    teacher = quantized("llama", "int8")
    student = quantized("llama", "int4", seed=1, rank=2)
    token_ids, sources, margin = write_greedily(
        forward(student), forward(teacher), 8, PROMPTS
    )
    assert margin > 1e-4
    rollout = rollouts.Speculative(
        acceptance.TopK(8),
        num_speculative_tokens=2,
        student_sampler="greedy",
        teacher_sampler="greedy",
        decoding=decoding,
    )
    written = write(rollout, teacher, student, PROMPTS)
    np.testing.assert_array_equal(written["token_ids"], token_ids)
    np.testing.assert_array_equal(written["sources"], sources)


def is_no_head(layer):
    # In Keras 3.15, no gradient passes the rounding of a quantized head's
    # inputs: through such a head, plain KerasHub models do not train either.
    return not isinstance(layer, keras.layers.ReversibleEmbedding)


@pytest.mark.parametrize(
    "rollout",
    [
        rollouts.Teacher(teacher_sampler="greedy"),
        rollouts.Speculative(num_speculative_tokens=2),
        rollouts.Mixture({"teacher": 0.5, "on_policy": 0.5}),
        rollouts.Segments((5,), threshold=-4.0),
    ],
    ids=["teacher", "speculative", "mixture", "segments"],
)
def test_qlora_trains(rollout):
    teacher = quantized("llama", "int8")
    student = quantized("llama", "int8", seed=1, rank=8, filters=is_no_head)
    before = student.get_weights()
    distiller = keras_skd.Distiller(
        teacher, student, rollout, stop_token_ids=(), seed=1
    )
    distiller.compile(optimizer=keras.optimizers.Adam(0.03))
    losses = distiller.fit(PROMPTS, batch_size=3, epochs=4, verbose=0)
    losses = losses.history["loss"]
    assert np.isfinite(losses).all()
    if isinstance(rollout, rollouts.Teacher):  # Every step has the same text.
        assert losses == sorted(losses, reverse=True)
    for weight, old in zip(student.weights, before):
        moved = np.any(ops.convert_to_numpy(weight) != old)
        assert moved == ("lora" in weight.path), weight.path
