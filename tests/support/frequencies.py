"""Chi-squared tests of whether samples follow a distribution."""

import numpy as np
from scipy import stats


def p_value(counts, probabilities):
    """The chance of counts this far from a distribution, or further.

    Outcomes that are expected less than five times are taken together, as
    Pearson's chi-squared test asks for.
    """
    counts = np.asarray(counts, "float64").ravel()
    probabilities = np.asarray(probabilities, "float64").ravel()
    expected = counts.sum() * probabilities / probabilities.sum()
    if counts[expected == 0].any():
        return 0.0
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(counts) == 1:
        return 1.0
    return stats.chisquare(counts, expected).pvalue


def check(counts, probabilities):
    """Fails at p < 1e-4. Seeds are fixed, so that it is deterministic."""
    value = p_value(counts, probabilities)
    assert value > 1e-4, f"p-value {value}"
