"""The tokens that end a response."""

import pytest

from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@bad_input.cases(
    [
        (
            "stop_token_ids of a string",
            lambda m: m.make(stop_token_ids="<eos>"),
            TypeError,
            ["`stop_token_ids`", "'<eos>'"],
        ),
        (
            "stop_token_ids of an int",
            lambda m: m.make(stop_token_ids=3),
            TypeError,
            ["`stop_token_ids`", "3"],
        ),
        (
            "stop_token_ids of floats",
            lambda m: m.make(stop_token_ids=(3.0,)),
            TypeError,
            ["`stop_token_ids`", "(3.0,)"],
        ),
        (
            "stop_token_ids beyond the vocabulary",
            lambda m: m.make(stop_token_ids=(3, 32)),
            ValueError,
            ["`stop_token_ids`", "32 tokens", "Received: 32"],
        ),
        (
            "stop_token_ids below zero",
            lambda m: m.make(stop_token_ids=(-1,)),
            ValueError,
            ["`stop_token_ids`", "Received: -1"],
        ),
    ],
)
def test_bad_stop_token_ids(m, call, error, words):
    bad_input.check(m, call, error, words)
