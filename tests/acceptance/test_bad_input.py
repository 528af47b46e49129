"""The errors of acceptance rules that are used wrongly."""

import pytest

import keras_skd
from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@bad_input.cases(
    [
        (
            "acceptance of an unknown name",
            lambda m: m.speculative(acceptance="top"),
            ValueError,
            ["`acceptance`", "'top'", "top_k"],
        ),
        (
            "acceptance of an int",
            lambda m: m.speculative(acceptance=25),
            TypeError,
            ["`acceptance`", "25", "int"],
        ),
        (
            "k of zero",
            lambda m: keras_skd.acceptance.TopK(0),
            ValueError,
            ["`k`", "at least 1", "0"],
        ),
        (
            "k of a float",
            lambda m: keras_skd.acceptance.TopK(2.5),
            TypeError,
            ["`k`", "2.5", "float"],
        ),
    ],
)
def test_arguments(m, call, error, words):
    bad_input.check(m, call, error, words)
