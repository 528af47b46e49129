from keras import ops
from keras import tree


class FlatPositions:
    """The positions of a batch, flattened, for a loop over chunks of them.

    Response positions are sorted to the front; the loop stops after the last
    one.

    Args:
        mask: tensor of shape `(batch, length)`, true at response positions.
        chunk_size: int. The number of positions in a chunk.
        largest: callable, as of `on_each_device`.

    Attributes:
        num_responses: int tensor, the number of response positions, on the
            device that has the most.
    """

    def __init__(self, mask, chunk_size, largest=lambda x: x):
        mask = ops.cast(mask, "int32")
        self.shape = ops.shape(mask)
        self.order = ops.argsort(1 - ops.reshape(mask, (-1,)))
        self.num_responses = largest(ops.sum(mask))
        self.chunk_size = chunk_size
        # The last chunk is padded with zeros.
        self.padding = -(self.shape[0] * self.shape[1]) % chunk_size

    def flatten(self, values):
        """From `(batch, length, ...)` to `(positions, ...)`.

        Args:
            values: structure of tensors and `None`.
        """

        def flatten(x):
            x = ops.reshape(x, (-1, *x.shape[2:]))
            x = ops.take(x, self.order, axis=0)
            paddings = [(0, self.padding), *[(0, 0)] * (len(x.shape) - 1)]
            return ops.pad(x, paddings)

        return tree.map_structure(_unless_none(flatten), values)

    def chunk(self, values, start):
        """The chunk of flat values that begins at position `start`."""

        def chunk(x):
            rest = len(x.shape) - 1
            shape = (self.chunk_size, *x.shape[1:])
            return ops.slice(x, (start, *[0] * rest), shape)

        return tree.map_structure(_unless_none(chunk), values)

    def unflatten(self, x):
        """From `(positions, ...)` back to `(batch, length, ...)`."""
        size = ops.shape(self.order)[0]
        x = ops.take(x[:size], ops.argsort(self.order), axis=0)
        return ops.reshape(x, (*self.shape, *x.shape[1:]))


def _unless_none(function):
    return lambda x: None if x is None else function(x)
