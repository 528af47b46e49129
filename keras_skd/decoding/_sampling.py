"""KerasHub samplers, one token at a time."""

import functools
import inspect

import keras
import keras_hub
from keras import ops

from keras_skd._backend import replay
from keras_skd._checks import is_number
from keras_skd._log_space import safe_log
from keras_skd._seeding import reseed

# About the square root of the size of a vocabulary.
_BLOCK_SIZE = 256


def get_sampler(identifier, name):
    """Resolves a KerasHub sampler that can sample a single next token.

    Args:
        identifier: a `keras_hub.samplers.Sampler`, its name or its config.
        name: str. The argument that it came from, for the errors.

    Raises:
        TypeError: if it is not a sampler, a name or a config.
        ValueError: if there is no such sampler, it generates whole sequences
            (beam, contrastive, speculative), or its temperature is too low.
    """
    sampler = identifier
    if isinstance(identifier, (str, dict)):
        try:
            sampler = keras_hub.samplers.get(identifier)
        except (KeyError, TypeError, ValueError):
            pass
        # KerasHub returns an unknown name unchanged.
        if isinstance(sampler, (str, dict)):
            raise ValueError(
                f"`{name}` must name a KerasHub sampler: 'random', 'greedy', "
                f"'top_k' or 'top_p'. Received: {identifier!r}"
            )
    if not isinstance(sampler, keras_hub.samplers.Sampler):
        raise TypeError(
            f"`{name}` must be a `keras_hub.samplers.Sampler`, its name or its "
            f"config. Received: {sampler!r} of type {type(sampler).__name__}"
        )
    if type(sampler).__call__ is not keras_hub.samplers.Sampler.__call__:
        raise ValueError(
            f"`{name}` must choose one token at a time ('random', 'greedy', "
            "'top_k', 'top_p', or your own `get_next_token`). Received: "
            f"{type(sampler).__name__}, which generates whole sequences."
        )
    temperature = sampler.temperature
    # At lower ones, float32 logits overflow and leave no probabilities.
    if not is_number(temperature) or not 1e-6 <= temperature < float("inf"):
        raise ValueError(
            f"`{name}` must have a finite `temperature` of at least 1e-6. "
            f"Received: temperature={temperature!r}. For the likeliest token, "
            "use 'greedy'."
        )
    return sampler


def reseed_sampler(sampler, seed):
    """Reseeds a sampler, unless it takes no seed or was given one."""
    takes_seed = "seed" in inspect.signature(type(sampler)).parameters
    if takes_seed and sampler.seed is None:
        reseed(sampler.seed_generator, seed)


def sample(sampler, logits):
    """Draws one token a row.

    Args:
        sampler: a `keras_hub.samplers.Sampler`.
        logits: float tensor of shape `(batch, vocabulary_size)`.

    Returns:
        int32 tensor of shape `(batch,)`.
    """
    probabilities = sampler.compute_probabilities(logits)
    if _known_kind(sampler) is keras_hub.samplers.RandomSampler:
        return _draw(probabilities, sampler.seed_generator)
    return ops.cast(sampler.get_next_token(probabilities), "int32")


def sample_log_probabilities(sampler, log_probs):
    """Draws one token a row from a sampler's `log_probabilities`.

    Args:
        sampler: a sampler for which `draws_from_known_distribution`.
        log_probs: float32 tensor of shape `(batch, vocabulary_size)`.

    Returns:
        int32 tensor of shape `(batch,)`.
    """
    if is_greedy(sampler):
        return ops.cast(ops.argmax(log_probs, axis=-1), "int32")
    probabilities = ops.exp(log_probs)
    # If no token has a probability, any token will do: it is rejected.
    total = ops.sum(probabilities, axis=-1, keepdims=True)
    probabilities = ops.where(total > 0, probabilities, 1.0)
    return _draw(probabilities, sampler.seed_generator)


def _draw(probabilities, seed):
    """Does what `keras.random.categorical` does, from cumulative sums.

    Backends draw a random number for each token of the vocabulary, or go
    through it token by token, which takes as long as several layers. Here a
    block of tokens is drawn first, then a token of that block: one sum over the
    whole vocabulary would be too coarse for unlikely tokens.
    """
    uniform = keras.random.uniform(
        (2, ops.shape(probabilities)[0], 1), dtype="float32", seed=seed
    )
    return _token_at(probabilities, uniform)


# It reads no variables, and `list()` is empty.
@functools.partial(replay, variables=list)
def _token_at(probabilities, uniform):
    """Inverts the distribution over blocks, then the one within a block."""
    size = probabilities.shape[-1]
    padded = ops.pad(probabilities, [(0, 0), (0, -size % _BLOCK_SIZE)])
    num_blocks = padded.shape[-1] // _BLOCK_SIZE
    blocks = ops.reshape(padded, (-1, num_blocks, _BLOCK_SIZE))
    block = _invert(ops.sum(blocks, axis=-1), uniform[0])
    within = ops.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK_SIZE + _invert(within, uniform[1])


def _invert(weights, uniform):
    """The first index whose cumulative share of the total exceeds `uniform`."""
    ends = ops.cumsum(weights, axis=-1)
    before = ends <= uniform * ends[:, -1:]
    return ops.sum(ops.cast(before, "int32"), axis=-1)


def is_greedy(sampler) -> bool:
    """Whether a sampler takes the likeliest token."""
    return _known_kind(sampler) is keras_hub.samplers.GreedySampler


def draws_from_known_distribution(sampler) -> bool:
    """Whether `log_probabilities` knows the distribution of a sampler.

    True for greedy, random, top-k and top-p samplers, and for subclasses that
    draw as these do.
    """
    return _known_kind(sampler) is not None


def log_probabilities(sampler, logits):
    """The distribution that a sampler draws from.

    Args:
        sampler: a sampler for which `draws_from_known_distribution`.
        logits: float tensor of shape `(..., vocabulary_size)`.

    Returns:
        float32 tensor of shape `(..., vocabulary_size)`; tokens that cannot be
        drawn have `-1e30`. Of tokens that tie, the first ones are kept.
    """
    samplers = keras_hub.samplers
    kind = _known_kind(sampler)
    probabilities = sampler.compute_probabilities(logits)
    # A model that has diverged gives no token a probability.
    is_nan = ops.isnan(probabilities)
    probabilities = ops.where(is_nan, 0.0, probabilities)
    if kind is samplers.RandomSampler:
        return safe_log(probabilities)
    if kind is samplers.GreedySampler:
        best = ops.argmax(probabilities, axis=-1)
        return safe_log(
            ops.one_hot(best, probabilities.shape[-1], dtype="float32")
        )
    order = ops.argsort(-probabilities, axis=-1)
    rank = ops.argsort(order, axis=-1)
    keep = True
    if kind is samplers.TopPSampler:
        ranked = ops.take_along_axis(probabilities, order, axis=-1)
        before = ops.cumsum(ranked, axis=-1) - ranked
        keep = ops.take_along_axis(before <= sampler.p, rank, axis=-1)
    if sampler.k is not None:
        keep = ops.logical_and(keep, rank < sampler.k)
    probabilities = ops.where(keep, probabilities, 0.0)
    total = ops.sum(probabilities, axis=-1, keepdims=True)
    return safe_log(ops.divide_no_nan(probabilities, total))


def _known_kind(sampler):
    """The KerasHub class that a sampler draws as, or `None`."""
    samplers = keras_hub.samplers
    for kind in (
        samplers.RandomSampler,
        samplers.GreedySampler,
        samplers.TopKSampler,
        samplers.TopPSampler,
    ):
        # A subclass that overrides one of these may draw anything.
        if isinstance(sampler, kind) and all(
            getattr(type(sampler), method) is getattr(kind, method)
            for method in ("get_next_token", "compute_probabilities")
        ):
            return kind
    return None
