"""The sequences of a batch while they are being written."""

from keras import ops

from keras_skd import sources


def columns(token_ids):
    """Column numbers of shape `(1, sequence_length)`."""
    return ops.arange(token_ids.shape[1], dtype="int32")[None]


def prompts_only(batch):
    """Takes a batch back to its prompts.

    Args:
        batch: dict of `"token_ids"`, `"padding_mask"` and maybe
            `"response_mask"`, each of shape `(batch, sequence_length)`.

    Returns:
        `(token_ids, lengths)`: the prompts followed by zeros, and the number
        of tokens in each.
    """
    keep = ops.cast(batch["padding_mask"], "bool")
    if "response_mask" in batch:
        response = ops.cast(batch["response_mask"], "bool")
        keep = ops.logical_and(keep, ops.logical_not(response))
    token_ids = ops.cast(batch["token_ids"], "int32")
    lengths = ops.sum(ops.cast(keep, "int32"), axis=1)
    return ops.where(keep, token_ids, 0), lengths


def is_stop(token_ids, stop_token_ids):
    """Whether each token ends its sequence; no stop tokens: never."""
    stop = ops.zeros_like(token_ids, dtype="bool")
    for stop_token_id in stop_token_ids or ():
        stop = ops.logical_or(stop, token_ids == stop_token_id)
    return stop


def before_any(flags):
    """True up to and including the first True of each row of `flags`."""
    flags = ops.cast(flags, "int32")
    return ops.cumsum(flags, axis=-1) - flags == 0


def put(values, positions, sequences, where=None):
    """Writes one value a row, at the row's own position.

    Positions outside of the sequence are passed over, and so are the rows
    where `where` is False.
    """
    here = columns(sequences) == positions[:, None]
    if where is not None:
        here = ops.logical_and(here, where[:, None])
    return ops.where(here, values[:, None], sequences)


def finish(token_ids, token_sources):
    """The dict that a rollout returns, from its tokens and their sources."""
    padding_mask = token_sources != sources.PADDING
    return {
        "token_ids": ops.where(padding_mask, token_ids, 0),
        "padding_mask": padding_mask,
        "response_mask": ops.logical_and(
            padding_mask, token_sources != sources.PROMPT
        ),
        "sources": token_sources,
    }
