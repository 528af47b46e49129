"""Arithmetic on log-probabilities.

All functions work on the last axis, the vocabulary. They know nothing about
masks or sequences, or which model is the teacher.
"""

from typing import Any

from keras import ops

Tensor = Any  # A tensor of Keras' backend.

# The logarithm of a probability of zero. It is finite, so that
# `0 * (log 0 - log 0)` and its gradient are 0, and far below any
# log-probability of finite logits.
LOG_ZERO = -1e30


def safe_log(probabilities: Tensor) -> Tensor:
    """Returns the log of probabilities, `LOG_ZERO` where they are zero."""
    is_zero = probabilities <= 0
    # Inside `log` as well: the gradient of `where` evaluates both sides.
    return ops.where(
        is_zero, LOG_ZERO, ops.log(ops.where(is_zero, 1.0, probabilities))
    )


def at_token(values: Tensor, token_ids: Tensor) -> Tensor:
    """Returns the value of one token at each position.

    Args:
        values: tensor `(..., vocabulary)`.
        token_ids: int tensor `(...)`.

    Returns:
        A tensor `(...)`.
    """
    token_ids = ops.expand_dims(token_ids, -1)
    return ops.squeeze(ops.take_along_axis(values, token_ids, axis=-1), -1)


def rank_of(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Returns the rank of one token at each position, 1 for the likeliest.

    Args:
        logits: tensor `(..., vocabulary)`.
        token_ids: int tensor `(...)`.

    Returns:
        An int32 tensor `(...)`.
    """
    own = ops.expand_dims(at_token(logits, token_ids), -1)
    return 1 + ops.sum(ops.cast(logits > own, "int32"), axis=-1)


def scale_logits(logits: Tensor, temperature: float, dtype: str) -> Tensor:
    """Returns logits at a temperature and in a dtype, none below `LOG_ZERO`."""
    return ops.maximum(ops.cast(logits, dtype) / temperature, LOG_ZERO)


def log_add_exp(x: Tensor, y: Tensor) -> Tensor:
    """Returns `log(exp(x) + exp(y))`, with the right gradient where `x == y`.

    There, the gradient of `ops.logaddexp` on TensorFlow is (1, 0) instead of
    (1/2, 1/2).
    """
    is_larger = x >= y
    larger, smaller = ops.where(is_larger, x, y), ops.where(is_larger, y, x)
    return larger + ops.log1p(ops.exp(smaller - larger))


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns `KL(p || q)` over the last axis, from log-probabilities."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def log_mixture(log_p: Tensor, log_q: Tensor, weight: float | Tensor) -> Tensor:
    """Returns `log(weight * p + (1 - weight) * q)`, from log-probabilities."""
    weight = ops.cast(weight, log_p.dtype)
    return log_add_exp(log_p + safe_log(weight), log_q + ops.log1p(-weight))


def top_k_and_rest(
    log_p: Tensor, log_q: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Reduces two distributions to the top `k` entries of `p` and a rest.

    Args:
        log_p: float tensor `(..., vocabulary)`, the log-probabilities whose
            largest entries are kept.
        log_q: float tensor `(..., vocabulary)`, reduced to the same entries.
        k: int, below the size of the vocabulary.

    Returns:
        Two tensors `(..., k + 1)` of log-probabilities, in which the last entry
        holds the mass of all the entries left out.
    """
    vocabulary_size = log_p.shape[-1]
    top_log_p, token_ids = ops.top_k(log_p, k)
    top_log_q = ops.take_along_axis(log_q, token_ids, axis=-1)

    # The mask of the kept entries. A comparison with the k-th largest value
    # would lose entries that tie with it; a one-hot sum would hold k
    # vocabularies at once.
    token_ids = ops.reshape(token_ids, (-1, k))
    rows = ops.broadcast_to(
        ops.arange(ops.shape(token_ids)[0], dtype="int32")[:, None],
        ops.shape(token_ids),
    )
    indices = ops.stack([rows, ops.cast(token_ids, rows.dtype)], axis=-1)
    indices = ops.reshape(indices, (-1, 2))
    kept = ops.scatter_update(
        ops.zeros_like(ops.reshape(log_p, (-1, vocabulary_size)), dtype="bool"),
        indices,
        ops.ones_like(indices[:, 0], dtype="bool"),
    )
    kept = ops.reshape(kept, ops.shape(log_p))

    # The rest is summed: for a confident model, 1 minus the top k would round
    # to zero.
    def append_rest(top, log_probs):
        rest = ops.logsumexp(
            ops.where(kept, LOG_ZERO, log_probs), axis=-1, keepdims=True
        )
        return ops.concatenate([top, rest], axis=-1)

    return append_rest(top_log_p, log_p), append_rest(top_log_q, log_q)
