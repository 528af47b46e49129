"""`keras.utils.PyDataset`s of batches."""

import itertools

import keras

from keras_skd._preprocessing.elements import only_x
from keras_skd._preprocessing.row_report import RowReport


class PackedPyDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are packed on their way out.

    A batch whose rows are all skipped is replaced by the next one.
    """

    def __init__(self, dataset, pack, argument):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.pack = pack
        self.report = RowReport(argument)

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        count = self.num_batches
        following = itertools.count(index)
        if count is not None:
            following = (i % count for i in range(index, index + count))
        for i in following:
            packed, counts = self.pack.pack(only_x(self.dataset[i]))
            self.report.count(counts, i)
            if len(packed["token_ids"]):
                return packed
        raise ValueError(
            "Every prompt of the dataset leaves no room for a response, or is "
            f"empty, and was skipped. Received: {count} batches."
        )

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()
        # Keras also calls this after a look at the first batches.
        if len(self.report.counts) >= (self.num_batches or 1):
            self.report.report()
