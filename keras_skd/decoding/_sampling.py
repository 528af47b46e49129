"""KerasHub samplers, one token at a time."""

import functools
import inspect
import random

import keras
import keras_hub
from keras import ops

from keras_skd._backend import replay

# About as many tokens in a block as there are blocks of a vocabulary.
_BLOCK_SIZE = 256


def get_sampler(identifier, name):
    """Resolves a KerasHub sampler that can sample a single next token.

    Args:
        identifier: a `keras_hub.samplers.Sampler`, its name or its config.
        name: str. The argument that it came from, for the errors.

    Raises:
        TypeError: if it is not something that can name a sampler.
        ValueError: if there is no such sampler, or it plans whole sequences
            (beam, contrastive, speculative) and has no next token to give.
    """
    sampler = identifier
    if isinstance(identifier, (str, dict)):
        try:
            sampler = keras_hub.samplers.get(identifier)
        except (KeyError, TypeError, ValueError):
            pass
        # KerasHub gives back a name that it does not know.
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
    plans = type(sampler).__call__ is not keras_hub.samplers.Sampler.__call__
    if plans:
        raise ValueError(
            f"`{name}` must choose one token at a time ('random', 'greedy', "
            "'top_k', 'top_p', or your own `get_next_token`). Received: "
            f"{type(sampler).__name__}, which plans whole sequences."
        )
    return sampler


def derive_seed(seed, name):
    """A seed for one of several streams of random numbers.

    Neighbouring seeds will not do: on PyTorch, Keras seeds each draw with the
    sum of the seed and the number of draws before, so that one stream would
    repeat what its neighbour drew one step earlier.
    """
    return random.Random(f"{seed}/{name}").getrandbits(31)


def with_seed(sampler, seed):
    """A sampler like this one, seeded, unless it has no seed or has one set."""
    takes_seed = "seed" in inspect.signature(type(sampler)).parameters
    if not takes_seed or sampler.seed is not None:
        return sampler
    sampler = type(sampler).from_config({**sampler.get_config(), "seed": seed})
    # It has no seed of its own still: another Distiller may give it another.
    sampler.seed = None
    return sampler


def sample(sampler, logits):
    """Draws one token a row.

    Args:
        sampler: a `keras_hub.samplers.Sampler`.
        logits: float tensor of shape `(batch, vocabulary_size)`.

    Returns:
        int32 tensor of shape `(batch,)`.
    """
    probabilities = sampler.compute_probabilities(logits)
    # A subclass may do anything.
    if type(sampler) is keras_hub.samplers.RandomSampler:
        return _draw(probabilities, sampler.seed_generator)
    return ops.cast(sampler.get_next_token(probabilities), "int32")


def _draw(probabilities, seed):
    """Draws what `keras.random.categorical` would, from one pass of sums.

    Backends draw from a vocabulary with a random number for each token of it,
    or by looking at one token after the other, which takes as long as several
    layers. Here a block of tokens is drawn first, then a token of that block:
    of all tokens at once, the sums would be too coarse for the unlikely ones.
    """
    uniform = keras.random.uniform(
        (2, ops.shape(probabilities)[0], 1), seed=seed
    )
    return _token_at(probabilities, uniform)


# It reads no variables: the list of them is empty.
@functools.partial(replay, variables=list)
def _token_at(probabilities, uniform):
    """The token at a place among all blocks, and then within one."""
    size = probabilities.shape[-1]
    padded = ops.pad(probabilities, [(0, 0), (0, -size % _BLOCK_SIZE)])
    num_blocks = padded.shape[-1] // _BLOCK_SIZE
    blocks = ops.reshape(padded, (-1, num_blocks, _BLOCK_SIZE))
    block = _invert(ops.sum(blocks, axis=-1), uniform[0])
    within = ops.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK_SIZE + _invert(within, uniform[1])


def _invert(weights, uniform):
    """The first of the sums beyond `uniform`: none that has no weight."""
    ends = ops.cumsum(weights, axis=-1)
    before = ends <= uniform * ends[:, -1:]
    return ops.sum(ops.cast(before, "int32"), axis=-1)


def log_probabilities(sampler, logits):
    """The distribution that a sampler draws from.

    Args:
        sampler: a greedy, random, top-k or top-p `keras_hub` sampler.
        logits: float tensor of shape `(..., vocabulary_size)`.

    Returns:
        float32 tensor of shape `(..., vocabulary_size)`; tokens that cannot be
        drawn have `-1e30`.
    """
    samplers = keras_hub.samplers
    probabilities = sampler.compute_probabilities(logits)
    if isinstance(sampler, samplers.RandomSampler):
        return _log(probabilities)
    if isinstance(sampler, samplers.GreedySampler):
        keep = ops.one_hot(
            ops.argmax(probabilities, axis=-1), probabilities.shape[-1]
        )
        return _log(keep)
    order = ops.argsort(-probabilities, axis=-1)
    rank = ops.argsort(order, axis=-1)
    if isinstance(sampler, samplers.TopKSampler):
        keep = rank < sampler.k
    elif isinstance(sampler, samplers.TopPSampler):
        ranked = ops.take_along_axis(probabilities, order, axis=-1)
        before = ops.cumsum(ranked, axis=-1) - ranked
        keep = ops.take_along_axis(before <= sampler.p, rank, axis=-1)
        if sampler.k is not None:
            keep = keep & (rank < sampler.k)
    else:
        raise ValueError(
            "This acceptance rule compares the distributions that the samplers "
            "draw from, and knows those of 'random', 'greedy', 'top_k' and "
            f"'top_p'. Received: {type(sampler).__name__}"
        )
    probabilities = ops.where(keep, probabilities, 0.0)
    total = ops.sum(probabilities, axis=-1, keepdims=True)
    return _log(probabilities / total)


def _log(probabilities):
    tiny = probabilities <= 0
    return ops.where(tiny, -1e30, ops.log(ops.where(tiny, 1.0, probabilities)))
