import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_skd.decoding._sampling import sample
from tests.support.frequencies import check


def draw(probabilities, num_rows, seed=0, **kwargs):
    """The tokens that a random sampler draws, one a row."""
    sampler = keras_hub.samplers.RandomSampler(seed=seed, **kwargs)
    logits = np.log(np.asarray(probabilities, "float32"))
    logits = ops.convert_to_tensor(np.tile(logits, (num_rows, 1)))
    tokens = sample(sampler, logits)
    assert keras.backend.standardize_dtype(tokens.dtype) == "int32"
    return ops.convert_to_numpy(tokens)


# Part of a block of tokens, one block, and several blocks with a remainder.
@pytest.mark.parametrize("size", [7, 256, 1000])
def test_tokens_are_drawn_from_the_distribution(size):
    weights = np.random.default_rng(size).exponential(size=size) ** 2
    # The first and the last token and a whole block, which no row may draw.
    weights[[0, -1]] = 0
    weights[256:512] = 0
    with np.errstate(divide="ignore"):
        tokens = draw(weights / weights.sum(), num_rows=10_000)
    assert tokens.shape == (10_000,)
    check(np.bincount(tokens, minlength=size), weights)


def test_a_large_vocabulary():
    # One token has half of the mass, very many tokens share the rest.
    probabilities = np.full(2**18 + 1, 0.5 / 2**18)
    probabilities[0] = 0.5
    tokens = np.concatenate(
        [draw(probabilities, num_rows=100, seed=seed) for seed in range(10)]
    )
    # The first token, and eighths of the others.
    groups = np.ceil(tokens / 2**15).astype("int32")
    check(np.bincount(groups, minlength=9), [0.5, *[0.0625] * 8])


def test_it_draws_what_the_samplers_own_operation_draws():
    probabilities = np.array([0.5, 0.125, 0.25, 0.125])
    sampler = keras_hub.samplers.RandomSampler(seed=1)
    rows = ops.convert_to_tensor(
        np.tile(probabilities.astype("float32"), (10_000, 1))
    )
    theirs = ops.convert_to_numpy(sampler.get_next_token(rows))
    ours = draw(probabilities, num_rows=10_000)
    for tokens in (theirs, ours):
        check(np.bincount(tokens, minlength=4), probabilities)


def test_it_does_without_the_samplers_own_operation(monkeypatch):
    def get_next_token(self, probabilities):
        raise AssertionError("a random number for each token is slow")

    monkeypatch.setattr(
        keras_hub.samplers.RandomSampler, "get_next_token", get_next_token
    )
    assert draw([1e-30, 1.0, 1e-30], num_rows=2).tolist() == [1, 1]


def test_temperature_counts():
    probabilities = np.array([0.7, 0.2, 0.1])
    tokens = draw(probabilities, num_rows=10_000, temperature=0.5)
    check(np.bincount(tokens, minlength=3), probabilities**2)


def test_a_row_draws_by_its_own_numbers():
    tokens = draw(np.full(1000, 1e-3), num_rows=500)
    assert len(np.unique(tokens)) > 300


def test_the_same_seed_draws_the_same_and_each_draw_goes_on():
    sampler = keras_hub.samplers.RandomSampler(seed=1)
    again = keras_hub.samplers.RandomSampler(seed=1)
    logits = ops.zeros((100, 300))
    first, second = (
        ops.convert_to_numpy(sample(sampler, logits)) for _ in range(2)
    )
    assert np.array_equal(first, ops.convert_to_numpy(sample(again, logits)))
    assert not np.array_equal(first, second)


def test_a_subclass_draws_in_its_own_way():
    class Last(keras_hub.samplers.RandomSampler):
        def get_next_token(self, probabilities):
            return ops.argmax(probabilities, axis=-1)

    logits = ops.convert_to_tensor(np.arange(6.0, dtype="float32")[None])
    assert ops.convert_to_numpy(sample(Last(), logits)).tolist() == [5]
