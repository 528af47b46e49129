"""Means and their intervals, by bootstrap over seeds and test items."""

import typing

import numpy as np

RESAMPLES = 2000


class Interval(typing.NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self):
        return self.low > 0 or self.high < 0


def of_mean(numerators, denominators, seed=0) -> Interval:
    """The interval of a score, over seeds and items.

    The score of a seed is `100 * sum(numerators) / sum(denominators)` over the
    items; the mean over seeds is reported. Both seeds and items are drawn with
    replacement, the same items for all seeds. With few seeds, such intervals
    are too narrow.

    Args:
        numerators, denominators: arrays of shape `(seeds, items)`.
        seed: int, of the resampling.
    """
    numerators = np.asarray(numerators, dtype="float64")
    denominators = np.asarray(denominators, dtype="float64")
    seeds, items = _weights(*numerators.shape, seed)
    return _interval(
        _scores(numerators, denominators),
        _scores(numerators, denominators, items),
        seeds,
    )


def of_difference(numerators, others, denominators, seed=0) -> Interval:
    """The interval of the difference of two scores, paired by seed and item.

    Args:
        numerators, others, denominators: arrays of shape `(seeds, items)`. The
            difference is the score of the first minus that of the second.
        seed: int, of the resampling.
    """
    difference = np.subtract(numerators, others, dtype="float64")
    # Both have the same denominators, so the score of the difference is the
    # difference of the scores.
    return of_mean(difference, denominators, seed)


def over_seeds(values, seed=0) -> Interval:
    """The interval of a mean over seeds alone."""
    values = np.asarray(values, dtype="float64")
    return of_mean(values[:, None], np.full((len(values), 1), 100.0), seed)


def _weights(num_seeds, num_items, seed):
    """How often each seed and each item is drawn, for each resample."""
    generator = np.random.default_rng(seed)
    return (
        generator.multinomial(n, np.full(n, 1 / n), RESAMPLES)
        for n in (num_seeds, num_items)
    )


def _scores(numerators, denominators, items=None):
    """The score of each seed: `(seeds,)`, or `(resamples, seeds)`."""
    if items is None:
        items = np.ones(numerators.shape[1])
    return 100 * (items @ numerators.T) / (items @ denominators.T)


def _interval(scores, resampled, seeds):
    means = (resampled * seeds).sum(axis=1) / seeds.sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(scores.mean()), float(low), float(high))
