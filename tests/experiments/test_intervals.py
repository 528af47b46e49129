"""The bootstrap against known cases. No model is run."""

import numpy as np
import pytest

from experiments import intervals


def test_items_alone_give_the_interval_of_a_proportion():
    right = np.array([[1] * 300 + [0] * 700] * 4)
    found = intervals.of_mean(right, np.ones_like(right))
    # All seeds agree: the normal approximation of a proportion of 1,000.
    half = 100 * 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.mean == pytest.approx(30)
    assert found.low == pytest.approx(30 - half, abs=0.25)
    assert found.high == pytest.approx(30 + half, abs=0.25)


def test_seeds_alone_give_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(10, 2, size=50)
    found = intervals.over_seeds(values)
    half = 1.96 * values.std() / np.sqrt(50)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.08)
    assert found.high == pytest.approx(values.mean() + half, abs=0.08)


def test_the_score_is_a_ratio_of_sums():
    # 3 errors in 4 phonemes and 1 in 16 are 4 in 20, not the mean of ratios.
    assert intervals.of_mean([[3, 1]], [[4, 16]]).mean == pytest.approx(20)


def test_a_paired_difference_cancels_what_seeds_and_items_share():
    generator = np.random.default_rng(0)
    errors = generator.integers(0, 5, size=(5, 200)) + np.arange(5)[:, None]
    lengths = np.full_like(errors, 10)
    found = intervals.of_difference(errors + 1, errors, lengths)
    assert found == pytest.approx((10, 10, 10))
    assert found.excludes_zero
    alone = intervals.of_mean(errors, lengths)
    assert alone.high - alone.low > 10


def test_an_interval_with_zero_in_it_does_not_exclude_it():
    generator = np.random.default_rng(1)
    errors = generator.integers(0, 5, size=(2, 4, 100))
    found = intervals.of_difference(*errors, np.full((4, 100), 10))
    assert found.low < 0 < found.high and not found.excludes_zero
