"""Arithmetic on log-probabilities over the last axis, the vocabulary."""

from keras import ops

# The logarithm of a probability of zero. It is finite, so that
# `0 * (log 0 - log 0)` is 0 and its gradient is too, and far below any
# log-probability that finite logits can give.
LOG_ZERO = -1e30


def safe_log(probabilities):
    """The logarithm, with `LOG_ZERO` where a probability is 0."""
    is_zero = probabilities <= 0
    log = ops.log(ops.where(is_zero, 1.0, probabilities))
    return ops.where(is_zero, LOG_ZERO, log)


def at_token(values, token_ids):
    """The value of one token at each position.

    Args:
        values: tensor of shape `(..., vocabulary_size)`.
        token_ids: int tensor of shape `(...,)`.

    Returns:
        Tensor of shape `(...,)`.
    """
    return ops.take_along_axis(values, token_ids[..., None], axis=-1)[..., 0]
