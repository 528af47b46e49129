"""The sequences of a batch while they are being written."""

from keras import ops

from keras_skd import _source as codes


def columns(token_ids):
    """Column numbers of shape `(1, sequence_length)`."""
    return ops.arange(token_ids.shape[1], dtype="int32")[None]


class Prompts:
    """The prompts of a batch, followed by zeros, and their lengths.

    Args:
        batch: dict of `"token_ids"`, `"padding_mask"` and maybe
            `"response_mask"`, each of shape `(batch, sequence_length)`.
        limits: int32 tensor of shape `(batch,)`, where each row has to end.
            Defaults to `None`, the end of the sequence.

    Attributes:
        token_ids: int32 tensor of shape `(batch, sequence_length)`.
        lengths: int32 tensor of shape `(batch,)`.
        limits: int32 tensor of shape `(batch,)`.
        full: bool tensor of shape `(batch,)`. Whether there is no room for a
            response: nothing is written in these rows.
        longest: int32 scalar, the longest prompt with room for a response.
    """

    def __init__(self, batch, limits=None):
        keep = ops.cast(batch["padding_mask"], "bool")
        if "response_mask" in batch:
            keep = keep & ~ops.cast(batch["response_mask"], "bool")
        token_ids = ops.cast(batch["token_ids"], "int32")
        self.token_ids = ops.where(keep, token_ids, 0)
        self.batch_size = ops.shape(token_ids)[0]
        self.sequence_length = token_ids.shape[1]
        self.lengths = ops.sum(ops.cast(keep, "int32"), axis=1)
        if limits is None:
            limits = ops.full_like(self.lengths, self.sequence_length)
        self.limits = limits
        self.full = self.lengths >= limits
        self.longest = ops.max(ops.where(self.full, 1, self.lengths))


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


def with_prompts(token_sources, prompts, end):
    """`token_sources` in the response, between the prompt and `end`."""
    column = columns(token_sources)
    token_sources = ops.where(
        column < prompts.lengths[:, None], codes.PROMPT, token_sources
    )
    return ops.where(column < end[:, None], token_sources, codes.PADDING)


def finish(token_ids, sources):
    """The masks that follow from the tokens and their sources."""
    padding_mask = sources != codes.PADDING
    return {
        "token_ids": ops.where(padding_mask, token_ids, 0),
        "padding_mask": padding_mask,
        "response_mask": padding_mask & (sources != codes.PROMPT),
        "sources": sources,
    }
