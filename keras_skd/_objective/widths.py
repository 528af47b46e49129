"""Batches without the columns that hold nothing but padding."""

from keras_skd.decoding._prompts import TEACHER_KEYS
from keras_skd.decoding._prompts import length_of_longest

# Rows of at most this length are read with all of their padding.
_SHORT = 256


def widths_of(sequence_length) -> list:
    """The widths in which rows may be read, each a third of the next.

    Each that is used is compiled.
    """
    widths = [sequence_length]
    while widths[0] > _SHORT:
        widths.insert(0, -(-widths[0] // 96) * 32)
    return widths


def narrow(batch, width) -> dict:
    """The first columns of a batch whose other columns are padding.

    The teacher's own prompts have another length.
    """
    return {
        key: x if key in TEACHER_KEYS or len(x.shape) < 2 else x[:, :width]
        for key, x in batch.items()
    }


def narrowest(batch) -> dict:
    """The batch in the narrowest of the widths that hold its longest row.

    Not for compiled functions, where the values of tensors are not known.
    """
    sequence_length = batch["token_ids"].shape[1]
    choices = widths_of(sequence_length)
    if len(choices) == 1:
        return batch
    longest = length_of_longest(batch)
    width = next(width for width in choices if longest <= width)
    return narrow(batch, width)
