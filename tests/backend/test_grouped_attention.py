"""Attention of query heads in groups, against heads with keys of their own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_skd._backend import attention_scope
from keras_skd._backend import grouped_attention
from keras_skd.decoding import CachedCausalLM
from tests.support.writing import random_causal_lm

ROWS, KEYS, GROUPS, IN_GROUP, DIM = 2, 5, 3, 2, 4
SHAPE = (ROWS, KEYS, GROUPS, DIM)
SCALE = 0.3


def tensors(num_queries):
    """A query, a key, a value and a mask."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(ROWS, num_queries, GROUPS * IN_GROUP, DIM))
    x = query, rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    mask = rng.random((ROWS, 1, num_queries, KEYS)) < 0.7
    mask[..., 0] = True
    return *(ops.convert_to_tensor(a, "float32") for a in x), mask


def fused(query, key, value, mask):
    """As KerasHub on JAX."""
    key, value = (ops.repeat(x, IN_GROUP, axis=2) for x in (key, value))
    return ops.dot_product_attention(query, key, value, mask=mask, scale=SCALE)


def by_einsum(query, key, value, mask):
    """As KerasHub on TensorFlow."""
    key, value = (ops.repeat(x, IN_GROUP, axis=2) for x in (key, value))
    scores = ops.einsum("bquh,bkuh->buqk", query, key) * SCALE
    weights = ops.softmax(ops.where(mask, scores, -1e9), axis=-1)
    return ops.einsum("buqk,bkuh->bquh", weights, value)


@pytest.mark.parametrize("num_queries", [1, 4])
@pytest.mark.parametrize("attend", [fused, by_einsum])
def test_is_that_of_repeated_keys_and_values(attend, num_queries):
    arguments = tensors(num_queries)
    expected = attend(*arguments)
    originals = ops.repeat, ops.einsum, ops.dot_product_attention
    with grouped_attention.grouped_attention():
        result = attend(*arguments)
    assert (ops.repeat, ops.einsum, ops.dot_product_attention) == originals
    np.testing.assert_allclose(
        ops.convert_to_numpy(result),
        ops.convert_to_numpy(expected),
        atol=1e-5,
    )


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="in its traced graphs"
)
@pytest.mark.parametrize(
    "architecture",
    [
        "llama",
        "mistral",
        "mixtral",
        "qwen",
        "qwen3",
        "qwen_moe",
        "qwen3_moe",
        "phi3",
        "gpt_oss",
    ],
)
def test_the_layers_of_kerashub_attend_in_groups(monkeypatch, architecture):
    lm = CachedCausalLM(random_causal_lm(architecture))
    shapes = []

    def combine(weights, value):
        shapes.append(value.shape)
        return original(weights, value)

    original = grouped_attention.combine
    monkeypatch.setattr(grouped_attention, "combine", combine)
    backbone = lm.model.backbone
    token_ids = ops.ones((2, 3), "int32")
    lm.extend(token_ids, lm.empty_cache(2, 8), 0)
    assert len(shapes) == backbone.num_layers
    for shape in shapes:
        assert shape[2] == backbone.num_key_value_heads
        assert shape[2] < backbone.num_query_heads


def test_what_is_not_repeated_is_left_alone():
    query, key, value, mask = tensors(1)
    query = query[:, :, :GROUPS]
    expected = ops.dot_product_attention(
        query, key, value, mask=mask, scale=SCALE
    )
    with attention_scope():
        result = ops.dot_product_attention(
            query, key, value, mask=mask, scale=SCALE
        )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(result), ops.convert_to_numpy(expected)
    )
