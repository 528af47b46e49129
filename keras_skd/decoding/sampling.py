"""KerasHub samplers, one token at a time."""

import inspect

import keras_hub
from keras import ops


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
    if isinstance(identifier, (str, dict)):
        try:
            sampler = keras_hub.samplers.get(identifier)
        except Exception as error:
            raise ValueError(
                f"`{name}` must name a KerasHub sampler, such as 'random', "
                f"'greedy', 'top_k' or 'top_p'. Received: {identifier!r}"
            ) from error
    else:
        sampler = identifier
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


def with_seed(sampler, seed):
    """A sampler like this one, seeded, unless it has no seed or has one set."""
    takes_seed = "seed" in inspect.signature(type(sampler)).parameters
    if not takes_seed or sampler.seed is not None:
        return sampler
    return type(sampler).from_config({**sampler.get_config(), "seed": seed})


def sample(sampler, logits):
    """Draws one token a row.

    Args:
        sampler: a `keras_hub.samplers.Sampler`.
        logits: float tensor of shape `(batch, vocabulary_size)`.

    Returns:
        int32 tensor of shape `(batch,)`.
    """
    probabilities = sampler.compute_probabilities(logits)
    return ops.cast(sampler.get_next_token(probabilities), "int32")
