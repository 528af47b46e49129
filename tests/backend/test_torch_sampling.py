import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("how PyTorch draws a token", allow_module_level=True)

import numpy as np
import torch

from keras_skd.backend import sampling_scope
from tests.frequencies import check

PROBABILITIES = torch.tensor(
    [[0.0, 0.5, 0.125, 0.0, 0.25, 0.125, 0.0], [0, 0, 0, 0, 0, 0, 1.0]]
)


def draw(probabilities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with sampling_scope():
        return torch.multinomial(
            probabilities, 1, replacement=True, generator=generator
        )


def test_tokens_are_drawn_from_the_distribution():
    drawn = draw(PROBABILITIES.repeat(20_000, 1))
    assert drawn.shape == (40_000, 1) and drawn.dtype == torch.int64
    counts = [
        np.bincount(rows, minlength=7)
        for rows in drawn.reshape(-1, 2).T.numpy()
    ]
    assert counts[0][[0, 3, 6]].tolist() == [0, 0, 0]
    assert counts[1].tolist() == [0, 0, 0, 0, 0, 0, 20_000]
    check(counts[0], PROBABILITIES[0])


def test_one_row_and_weights_that_do_not_sum_to_one():
    row = 100 * PROBABILITIES[0]
    drawn = [int(draw(row, seed)[0]) for seed in range(200)]
    assert set(drawn) == {1, 2, 4, 5}


def test_the_same_seed_draws_the_same():
    rows = PROBABILITIES.repeat(100, 1)
    assert torch.equal(draw(rows, seed=1), draw(rows, seed=1))
    assert not torch.equal(draw(rows, seed=1), draw(rows, seed=2))


def test_several_at_once_are_pytorchs_own():
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    with sampling_scope():
        ours = torch.multinomial(
            PROBABILITIES, 4, replacement=True, generator=generators[0]
        )
    theirs = torch.multinomial(
        PROBABILITIES, 4, replacement=True, generator=generators[1]
    )
    assert torch.equal(ours, theirs)
