"""Columns that are all padding are not read."""

import keras
import numpy as np
import pytest

import keras_skd
from keras_skd._objective import widths
from tests.support.recording import recorded_widths
from tests.support.recording import uneven_rows
from tests.support.writing import random_causal_lm


def train_and_evaluate(dtype="float32"):
    """The history, the scores and the student's weights."""
    distiller = keras_skd.Distiller(
        random_causal_lm("llama", 0, num_layers=1),
        random_causal_lm("gpt2", 1, num_layers=1, dropout=0.0, dtype=dtype),
        "supervised",
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(0.1),
        hidden_state_loss=keras_skd.losses.HiddenStateL1(),
        rollout_metrics=["loss_parts", "kl_by_source"],
    )
    # In batches of the long rows and of the others.
    history = distiller.fit(
        uneven_rows(), batch_size=5, epochs=2, shuffle=False, verbose=0
    ).history
    scores = distiller.evaluate(
        uneven_rows(), batch_size=5, return_dict=True, verbose=0
    )
    weights = [np.array(w, "float32") for w in distiller.student.get_weights()]
    return history, scores, weights


def test_widths():
    assert widths.widths_of(256) == [256]
    assert widths.widths_of(257) == [96, 257]
    assert widths.widths_of(4096) == [160, 480, 1376, 4096]


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param(
            "mixed_float16",
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax",
                reason="JAX has no products in float16 on a CPU",
            ),
        ),
    ],
)
def test_training_and_evaluation_are_the_same(dtype, monkeypatch):
    expected = train_and_evaluate(dtype)
    with recorded_widths(monkeypatch) as read:
        monkeypatch.setattr(widths, "_SHORT", 32)
        results = train_and_evaluate(dtype)
    if keras.backend.backend() == "torch":
        assert read == [64, 32] * 3
    else:
        # Keras builds the metrics with a batch as it comes.
        assert [w for w in read if w != 64] == [32, 32]
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    for values, others in zip(results[:2], expected[:2]):
        assert values.keys() == others.keys()
        for name in values:
            np.testing.assert_allclose(
                values[name], others[name], rtol=tolerance, err_msg=name
            )
    for value, other in zip(results[2], expected[2], strict=True):
        np.testing.assert_allclose(value, other, atol=tolerance)
