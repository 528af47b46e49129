"""The rank that `TopK` tests is the rank in a sort, for any logits."""

import numpy as np
import pytest
from keras import ops

from keras_skd import acceptance

VOCABULARY_SIZE = 40


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
def test_rank_is_that_of_a_sort(shape, dtype):
    rng = np.random.default_rng(0)
    # Each value once: exact, and not tied, in half precision too.
    order = rng.permuted(
        np.broadcast_to(np.arange(VOCABULARY_SIZE), (*shape, VOCABULARY_SIZE)),
        axis=-1,
    )
    token_ids = rng.integers(0, VOCABULARY_SIZE, shape)
    logits = ops.cast((order - 13.0) / 4, dtype)
    at_token = np.take_along_axis(order, token_ids[..., None], axis=-1)[..., 0]
    for k in (1, 2, 17, VOCABULARY_SIZE - 1, VOCABULARY_SIZE):
        accepted = acceptance.TopK(k).accept(
            ops.convert_to_tensor(token_ids, "int32"), logits
        )
        accepted = ops.convert_to_numpy(accepted)
        assert accepted.shape == shape
        np.testing.assert_array_equal(accepted, at_token >= VOCABULARY_SIZE - k)


def test_one_accepts_the_argmax_alone():
    logits = np.random.default_rng(0).normal(size=(50, VOCABULARY_SIZE))
    everything = np.broadcast_to(np.arange(VOCABULARY_SIZE), logits.shape)
    accepted = acceptance.TopK(1).accept(
        ops.convert_to_tensor(everything, "int32"),
        ops.convert_to_tensor(
            np.repeat(logits[:, None], VOCABULARY_SIZE, axis=1), "float32"
        ),
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(accepted),
        everything == logits.argmax(axis=1)[:, None],
    )


def test_what_is_as_likely_as_the_kth_is_accepted():
    logits = ops.convert_to_tensor([[3.0, 1.0, 1.0, 2.0, 1.0]] * 5)
    token_ids = ops.arange(5, dtype="int32")
    for k, expected in (
        (1, [True, False, False, False, False]),
        (2, [True, False, False, True, False]),
        (3, [True] * 5),
        (4, [True] * 5),
    ):
        accepted = acceptance.TopK(k).accept(token_ids, logits)
        assert ops.convert_to_numpy(accepted).tolist() == expected


def test_a_logit_of_minus_infinity_is_the_last_to_be_accepted():
    logits = ops.convert_to_tensor([[0.0, -np.inf, 1.0, -np.inf]] * 4)
    token_ids = ops.arange(4, dtype="int32")
    for k, expected in ((2, [1, 0, 1, 0]), (3, [1, 1, 1, 1])):
        accepted = acceptance.TopK(k).accept(token_ids, logits)
        assert ops.convert_to_numpy(accepted).astype(int).tolist() == expected
