"""Means that do not depend on the batch size."""

import warnings

import keras
import numpy as np
import pytest

import keras_skd
from keras_skd import losses
from tests.support import writing

LENGTHS = [1, 8, 2, 7]


def _batch():
    shape = len(LENGTHS), 9
    columns = np.arange(shape[1])
    padding_mask = columns < 1 + np.array(LENGTHS)[:, None]
    token_ids = np.random.default_rng(0).integers(1, 32, shape)
    return {
        "token_ids": (token_ids * padding_mask).astype("int32"),
        "padding_mask": padding_mask,
        "response_mask": padding_mask & (columns > 0),
    }


@pytest.fixture(scope="module")
def distiller():
    teacher, student = (
        writing.random_causal_lm("llama", seed=seed, num_layers=1)
        for seed in (1, 2)
    )
    return keras_skd.Distiller(teacher, student, rollout="supervised")


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_the_reported_loss_does_not_depend_on_the_batch_size(
    distiller, reduction
):
    loss = losses.ForwardKL(reduction=reduction)
    # Weights do not change.
    distiller.compile(optimizer=keras.optimizers.SGD(0.0), loss=loss)
    reported = {}
    for size in (4, 2, 1):
        history = distiller.fit(
            _batch(), batch_size=size, verbose=0, validation_data=_batch()
        )
        reported[size] = [
            distiller.evaluate(_batch(), batch_size=size, verbose=0)[0],
            *(history.history[name][0] for name in ("loss", "val_loss")),
        ]
    whole = reported[4][0]
    np.testing.assert_allclose(list(reported.values()), whole, rtol=1e-5)


def _accumulated(distiller, reduction, batch_size):
    """The weights after one update from all of the batch."""
    start = distiller.student.get_weights()
    steps = len(LENGTHS) // batch_size
    optimizer = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=steps if steps > 1 else None
    )
    loss = losses.ForwardKL(reduction=reduction)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distiller.compile(optimizer=optimizer, loss=loss)
    distiller.fit(_batch(), batch_size=batch_size, shuffle=False, verbose=0)
    weights = distiller.student.get_weights()
    distiller.student.set_weights(start)
    messages = [str(w.message) for w in caught]
    return weights, [m for m in messages if "gradient_accumulation" in m]


def test_accumulation_of_sequence_means_is_the_whole_batch(distiller):
    whole, _ = _accumulated(distiller, "sequence_mean", 4)
    parts, messages = _accumulated(distiller, "sequence_mean", 1)
    assert not messages
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["token_mean", "sum"])
def test_accumulation_of_other_reductions_is_warned_of(distiller, reduction):
    _, messages = _accumulated(distiller, reduction, 4)
    assert not messages
    _, (message,) = _accumulated(distiller, reduction, 1)
    assert repr(reduction) in message and "'sequence_mean'" in message


def test_accumulation_within_loss_scaling_is_warned_of(distiller):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    )
    with pytest.warns(UserWarning, match="gradient_accumulation_steps"):
        distiller.compile(
            optimizer=optimizer, loss=losses.ForwardKL(reduction="sum")
        )
