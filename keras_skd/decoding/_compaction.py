"""The last rows of a batch go on in a smaller one.

Responses are of different lengths, and a decoding step takes as long for a
finished row as for another. So when a quarter of a large batch is left, it goes
on without the rest. This is compiled once more; smaller batches do without.
"""

import keras
from keras import ops
from keras import tree

_SMALLEST_BATCH = 16


def num_last_rows(batch_size) -> int:
    """How many rows go on in a batch of their own: 0 for none.

    Args:
        batch_size: int, or a tensor where it is not known in compilation.
    """
    if not isinstance(batch_size, int) or batch_size < _SMALLEST_BATCH:
        return 0
    if keras.distribution.distribution() is not None:
        return 0  # Rows would move from device to device.
    return batch_size // 4


def more_are_left(finished, num_last_rows):
    """Whether there are more rows to write than the last ones."""
    if not num_last_rows:
        return ~ops.all(finished)
    return ops.sum(ops.cast(~finished, "int32")) > num_last_rows


def last_rows(finished, num_last_rows):
    """The indices of the last rows, all that are not finished among them."""
    return ops.argsort(ops.cast(finished, "int32"))[:num_last_rows]


def take_rows(state, index):
    """Some rows of a structure of tensors. Scalars are of all rows."""
    return tree.map_structure(
        lambda x: ops.take(x, index, axis=0) if len(x.shape) else x, state
    )


def put_rows(state, index, rows):
    """Puts rows that `take_rows` took back to their places."""
    return tree.map_structure(
        lambda x, y: (
            ops.scatter_update(x, index[:, None], y) if len(x.shape) else y
        ),
        state,
        rows,
    )
