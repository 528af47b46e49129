"""`tf.data.Dataset`s of batches, packed within the pipeline."""

from keras_skd._preprocessing.column_names import TOKEN_KEYS
from keras_skd._preprocessing.columns import tf
from keras_skd._preprocessing.elements import only_x
from keras_skd._preprocessing.row_report import RowReport


def pack_tf_data(dataset, pack, argument):
    """Maps `pack` over the batches of a dataset, within the pipeline."""
    names, spec = _columns(dataset, pack)
    # Reads a batch now, so that bad keys and rows are a plain error, and not an
    # error from inside the pipeline in the middle of an epoch.
    first = next(iter(dataset.take(1).as_numpy_iterator()), None)
    if first is None:
        raise ValueError("The dataset is empty. Received: no batch.")
    first = only_x(first)
    first = {name: first[name] for name in names}
    batch_size = len(first[names[0]])
    first = pack(first)
    rows = next(iter(spec.values())).shape[0]
    report = RowReport(argument)
    # An endless dataset is reported on as it goes.
    ends = dataset.cardinality() != tf.data.INFINITE_CARDINALITY

    def pack_arrays(index, *arrays):
        packed, counts = pack.pack(dict(zip(names, arrays)))
        report.count(counts, int(index))
        if not (ends and pack.skips):
            report.report()
        return list(packed.values())

    def pack_tensors(index, element):
        batch = only_x(element)
        outputs = tf.numpy_function(
            pack_arrays,
            [index, *(batch[name] for name in names)],
            [tf.as_dtype(value.dtype) for value in first.values()],
        )
        for key, output in zip(first, outputs):
            length = _static_length(key, spec, pack, first)
            output.set_shape((None if pack.skips else rows, length))
        return dict(zip(first, outputs))

    packed = dataset.enumerate().map(pack_tensors)
    if pack.skips:
        packed = _rebatch(packed, batch_size, rows is not None, report)
    return packed.prefetch(tf.data.AUTOTUNE)


def _columns(dataset, pack):
    """The columns that are read.

    Returns:
        `(names, spec)`: the list of their names in the data, and a dict of the
        specs of their tensors, under our names.
    """
    spec = only_x(dataset.element_spec)
    if not isinstance(spec, dict):
        raise TypeError(
            "Each element of the dataset must be a dict, such as "
            f'{{"prompts": ..., "responses": ...}}. Received: {spec}'
        )
    found = pack.column_names.find(spec)
    if "messages" in found:
        raise ValueError(
            "A `tf.data.Dataset` cannot hold messages. Pass the chats "
            "as a list of dicts, a `datasets.Dataset`, or a generator of "
            f"batches. Received: {spec[found['messages']]}"
        )
    spec = {key: spec[name] for key, name in found.items()}
    for key, leaf in spec.items():
        if leaf.shape.rank == 0:
            raise ValueError(
                f'The dataset must yield batches, and "{key}" is a single '
                "value. Call `.batch(batch_size)` on it."
            )
    return list(found.values()), spec


def _static_length(key, spec, pack, first):
    """The length of the rows of packed batches, or `None` if it varies."""
    known = key not in spec or spec[key].shape[1] is not None
    if key in TOKEN_KEYS[:3] and pack.sequence_length is not None:
        known = True
    return first[key].shape[1] if known else None


def _rebatch(dataset, batch_size, drop_remainder, report):
    """Batches the remaining rows anew, and reports skipped rows at the end."""

    def last():
        report.report()
        yield from ()

    dataset = dataset.rebatch(batch_size, drop_remainder=drop_remainder)
    return dataset.concatenate(
        tf.data.Dataset.from_generator(
            last, output_signature=dataset.element_spec
        )
    )
