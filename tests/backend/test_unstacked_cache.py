"""Passes with an unstacked cache, against KerasHub's own."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_skd._backend import unstacked_cache
from keras_skd._backend import unstacks_caches
from keras_skd.decoding import CachedCausalLM
from tests.support.caches import as_keras_hubs
from tests.support.caches import as_ours
from tests.support.caches import build_cache
from tests.support.causal_lms import ARCHITECTURES
from tests.support.causal_lms import VOCABULARY_SIZE
from tests.support.causal_lms import causal_lm
from tests.support.writing import random_causal_lm

# Gemma 3 has a tensor for each layer anyway. A layer of SmolLM3 takes any
# arguments, of which Keras asks that all be tensors.
STACKED = "gemma3", "smollm3"
UNSTACKED = [name for name in ARCHITECTURES if name not in STACKED]

pytestmark = pytest.mark.skipif(
    not unstacks_caches, reason="PyTorch updates caches in its traced graphs"
)


@pytest.mark.parametrize("architecture", STACKED)
def test_other_caches_are_left_alone(architecture):
    assert not CachedCausalLM(causal_lm(architecture)).is_unstacked


@pytest.mark.parametrize("architecture", UNSTACKED)
def test_a_pass_is_keras_hubs(architecture):
    model = random_causal_lm(architecture)
    lm = CachedCausalLM(model)
    assert lm.is_unstacked
    rng = np.random.default_rng(0)
    token_ids, tokens = (
        rng.integers(1, VOCABULARY_SIZE, (2, n)).astype("int32") for n in (9, 3)
    )
    cache = build_cache(model, token_ids)

    *expected, expected_cache = model.call_with_cache(tokens, cache, 4)
    *result, result_cache = lm.extend(tokens, as_ours(lm, cache), 4)

    result_cache = as_keras_hubs(lm, result_cache)
    change = ops.convert_to_numpy(expected_cache - cache)
    assert np.abs(change).max() > 0.1
    for x, y in zip(
        [*result, result_cache], [*expected, expected_cache], strict=True
    ):
        np.testing.assert_allclose(
            ops.convert_to_numpy(x), ops.convert_to_numpy(y), atol=2e-5
        )


class ScaledCache(keras_hub.models.LlamaCausalLM):
    """A model that does more with its cache than slicing and updating it."""

    def call_with_cache(self, token_ids, cache, cache_update_index):
        return super().call_with_cache(
            token_ids, 1.0 * cache, cache_update_index
        )


def test_a_model_that_computes_with_its_cache_keeps_it():
    llama = random_causal_lm("llama")
    model = ScaledCache(backbone=llama.backbone, preprocessor=None)
    lm = CachedCausalLM(model)
    assert not lm.is_unstacked
    tokens = ops.ones((2, 3), "int32")
    results = [
        x.extend(tokens, x.empty_cache(2, 5), 1)[0]
        for x in (lm, CachedCausalLM(llama))
    ]
    np.testing.assert_allclose(*map(ops.convert_to_numpy, results), atol=1e-5)


def test_operations_are_restored_after_an_error():
    def fail(cache):
        raise RuntimeError

    originals = ops.slice_update, ops.stack, ops.shape
    with pytest.raises(RuntimeError):
        unstacked_cache.call_with_unstacked_cache(fail, ())
    assert (ops.slice_update, ops.stack, ops.shape) == originals


def test_other_tensors_are_stacked():
    def call(cache):
        pair = ops.ones((2, 3)), ops.zeros((2, 3))
        return ops.stack(pair, axis=1), ops.stack(pair), cache

    cache = ((ops.ones((2, 5)), ops.zeros((2, 5))),)
    first, second, result = unstacked_cache.call_with_unstacked_cache(
        call, cache
    )
    assert first.shape == (2, 2, 3)
    assert second.shape == (2, 2, 3)
    assert keras.tree.map_structure(id, result) == keras.tree.map_structure(
        id, cache
    )


@pytest.mark.parametrize("key", [0, (slice(1), 0), (slice(None), 0, 0)])
def test_an_unstacked_cache_has_parts_alone(key):
    cache = unstacked_cache._Unstacked([ops.ones((2, 5)), ops.zeros((2, 5))])
    assert cache.shape == (2, 2, 5)
    with pytest.raises((NotImplementedError, TypeError)):
        cache[key]
