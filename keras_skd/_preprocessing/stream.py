"""Iterables of batches: generators, `DataLoader`s, and others.

They are only iterated over. Keras' adapter of generators converts the batches
for each backend.
"""

import itertools
import operator
from collections.abc import Callable

from keras.src.trainers.data_adapters.generator_data_adapter import (
    GeneratorDataAdapter,
)

from keras_skd._preprocessing.elements import naming
from keras_skd._preprocessing.elements import no_batch
from keras_skd._preprocessing.elements import only_x
from keras_skd._preprocessing.row_report import RowReport


def is_stream(data):
    """Whether data are an iterable of batches, and not an array or a list."""
    return hasattr(data, "__iter__") and not (
        hasattr(data, "shape")
        or isinstance(data, (str, bytes, dict, set, list, tuple))
    )


class Stream:
    """Packed batches of an iterable.

    Args:
        data: iterable of dicts of columns, or of lists of rows.
        pack: a `Packer`.
        argument: str. The argument that the data came from, for the errors.
    """

    def __init__(self, data, pack, argument):
        self.data = data
        self.pack = pack
        self.argument = argument
        self.report = RowReport(argument)
        # An iterator can be read only once, and may be endless.
        self.is_one_shot = hasattr(data, "__next__")

    def __iter__(self):
        for i, element in enumerate(self.data):
            with naming(self.argument):
                packed, counts = self.pack.pack(only_x(element))
            self.report.count(counts, i)
            if self.is_one_shot:
                self.report.report()
            if len(packed["token_ids"]):
                yield packed
        self.report.report()

    def for_keras(self):
        """Returns data for Keras' `fit`, and the keys of the batches."""
        batches = ((packed,) for packed in self)
        if not self.is_one_shot:
            adapter = _Passes(batches, self)
            return adapter, adapter.keys
        first = next(batches, None)
        if first is None:
            raise no_batch(self.argument, self.data)
        return _chain([first], batches), tuple(first[0])


class _Passes(GeneratorDataAdapter):
    """Keras' adapter for data that can be iterated over again.

    Args:
        batches: generator, the first pass.
        stream: a `Stream`, for the others.
    """

    generator: Callable

    def __init__(self, batches, stream):
        first = next(batches, None)
        if first is None:
            raise no_batch(stream.argument, stream.data)
        self.keys = tuple(first[0])
        super().__init__(_chain([first], batches))
        self._stream = stream
        # Keras' constructor has read the first batches of this pass.
        self._first_pass = [self.generator]
        self.generator = self._next_pass

    def _next_pass(self):
        if self._first_pass:
            return self._first_pass.pop()()
        return ((packed,) for packed in self._stream)

    @property
    def num_batches(self):
        return operator.length_hint(self._stream.data, 0) or None


def _chain(*iterables):
    """`itertools.chain` as a generator, which is the type Keras checks for."""
    yield from itertools.chain(*iterables)
