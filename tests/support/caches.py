"""Caches of KerasHub's models, and those of `CachedCausalLM`."""

import inspect

from keras import ops


def build_cache(model, token_ids):
    """KerasHub's own cache. Gemma 3 takes four arguments for images."""
    parameters = inspect.signature(model._build_cache).parameters
    return model._build_cache(token_ids, *[None] * (len(parameters) - 1))[1]


def as_ours(lm, cache):
    """A cache of KerasHub for a `CachedCausalLM`."""
    if not lm.is_unstacked:
        return cache
    return tuple(
        tuple(ops.unstack(layer, axis=1))
        for layer in ops.unstack(cache, axis=1)
    )


def as_keras_hubs(lm, cache):
    """A cache of a `CachedCausalLM` for KerasHub."""
    if not lm.is_unstacked:
        return cache
    return ops.stack([ops.stack(layer, axis=1) for layer in cache], axis=1)
