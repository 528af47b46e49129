"""The errors of `compile` for a bad loss."""

import keras
import pytest

import keras_skd
from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@bad_input.cases(
    [
        (
            "loss of an unknown name",
            lambda m: m.compile(loss="forward_k"),
            ValueError,
            ["`loss`", "'forward_k'", "Did you mean 'forward_kl'?"],
        ),
        (
            "loss of Keras",
            lambda m: m.compile(loss=keras.losses.KLDivergence()),
            TypeError,
            ["KLDivergence", "forward_kl"],
        ),
        (
            "loss of a function",
            lambda m: m.compile(loss=lambda y_true, y_pred: 0.0),
            TypeError,
            ["`loss`", "function"],
        ),
        (
            "loss that is not reduced",
            lambda m: m.compile(
                loss=keras_skd.losses.ForwardKL(reduction="none")
            ),
            ValueError,
            ["`loss`", "forward_kl", "reduction='none'"],
        ),
    ],
)
def test_loss_of_compile(m, call, error, words):
    bad_input.check(m, call, error, words)
