"""Any input that `fit` or `generate` takes, as packed batches."""

import contextlib
import itertools

import keras
import numpy as np

from keras_skd._preprocessing.columns import TOKEN_KEYS
from keras_skd._preprocessing.columns import tf
from keras_skd._preprocessing.long_prompts import SkippedPrompts


def prepare(data, pack, argument="x"):
    """Maps `pack` over any of the inputs that `fit` takes.

    Args:
        data: dict of whole columns, `tf.data.Dataset` of batches, or
            `keras.utils.PyDataset`.
        pack: a `Packer`.
        argument: str. The argument that `data` came from, for the errors.

    Returns:
        `(data, keys)`: data that Keras' own `fit` takes, and the keys of its
        batches.
    """
    if isinstance(data, (tuple, list)) and len(data) == 1:
        data = data[0]
    if isinstance(data, dict):
        packed = pack_batch(data, pack, argument)
        return packed, tuple(packed)
    with _naming(argument):
        if tf is not None and isinstance(data, tf.data.Dataset):
            return _prepare_tf_data(data, pack, argument)
        if isinstance(data, keras.utils.PyDataset):
            packed = _PackedPyDataset(data, pack, argument)
            return packed, tuple(packed[0])
    raise TypeError(
        f'`{argument}` must be a dict such as {{"prompts": [...], '
        '"responses": [...]}, a `tf.data.Dataset` of such batches, or a '
        f"`keras.utils.PyDataset`. Received: {type(data).__name__}"
    )


def pack_batch(batch, pack, argument="x"):
    """Packs one batch, or whole columns.

    Args:
        batch: dict, as in the call of a `Packer`.
        pack: a `Packer`.
        argument: str. The argument that `batch` came from, for the errors.

    Returns:
        dict of NumPy arrays with at least one row.
    """
    with _naming(argument):
        packed = pack(batch)
        if len(packed["token_ids"]) == 0:
            raise ValueError(
                "Every prompt leaves no room for a response, and was skipped "
                "(`long_prompts='skip'`). Received: "
                f"`sequence_length={packed['token_ids'].shape[1]}`. Pass a "
                "larger `sequence_length` to the `Distiller`."
            )
    skipped = SkippedPrompts(argument)
    skipped.count(batch, packed)
    skipped.report()
    return packed


def pack_generate_inputs(inputs, pack, max_length=None):
    """Packs the `inputs` of `generate`.

    Args:
        inputs: with a preprocessor, a string, a list or an array of strings,
            or a dict with these as `"prompts"`; without one, a dict of
            `"token_ids"` and `"padding_mask"`.
        pack: a `Packer`. Its `long_prompts="skip"` becomes `"error"`: each
            prompt has a text to be returned.
        max_length: int. The length of the rows. Defaults to `None`, the
            packer's.

    Returns:
        `(batch, is_single)`: dict of NumPy arrays, and whether `inputs` was a
        single string.
    """
    if max_length is not None:
        if pack.preprocessor is None:
            raise ValueError(
                "`max_length` needs a `preprocessor`: the length of token ids "
                "is the shape of their arrays. Received: "
                f"max_length={max_length}"
            )
        pack = pack.of_length(max_length, "max_length")
    if pack.preprocessor is None and not isinstance(inputs, dict):
        raise TypeError(
            "`inputs` must be a dict of 'token_ids' and 'padding_mask', since "
            f"there is no `preprocessor`. Received: {inputs!r:.60} of type "
            f"{type(inputs).__name__}"
        )
    if not isinstance(inputs, dict):
        inputs = {"prompts": inputs}
    for key in {"responses", "response_mask"} & inputs.keys():
        raise ValueError(
            f"`inputs` must be prompts alone: leave {key!r} out, since "
            "`generate` writes the responses itself. Received the keys: "
            f"{sorted(inputs, key=str)}"
        )
    is_single = _is_single(inputs.get("prompts"))
    if is_single:
        inputs = {
            key: _in_list(value) if _is_single(value) else value
            for key, value in inputs.items()
        }
    with _naming("inputs"):
        return pack.without_skipping()(inputs), is_single


def _is_single(value):
    return isinstance(value, (str, bytes)) or getattr(value, "shape", 0) == ()


def _in_list(value):
    is_text = isinstance(value, (str, bytes))
    return [value if is_text else np.asarray(value).item()]


@contextlib.contextmanager
def _naming(argument):
    """Has errors say which argument the data came from."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"In `{argument}`: {error}") from error.__cause__


class _PackedPyDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are packed on their way out.

    A batch whose prompts are all skipped is replaced by the next one.
    """

    def __init__(self, dataset, pack, argument):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.pack = pack
        self.skipped = SkippedPrompts(argument)

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
            batch = _only_x(self.dataset[i])
            packed = self.pack(batch)
            self.skipped.count(batch, packed, i)
            if len(packed["token_ids"]):
                return packed
        raise ValueError(
            "Every prompt of the dataset leaves no room for a response, and "
            f"was skipped. Received: {count} batches."
        )

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()
        # Keras also calls this after a look at the first batches.
        if len(self.skipped.counts) >= (self.num_batches or 1):
            self.skipped.report()


def _prepare_tf_data(dataset, pack, argument):
    spec = _only_x(dataset.element_spec)
    if not isinstance(spec, dict):
        raise TypeError(
            "Each element of the dataset must be a dict, such as "
            f'{{"prompts": ..., "responses": ...}}. Received: {spec}'
        )
    for key, leaf in spec.items():
        if leaf.shape.rank == 0:
            raise ValueError(
                f'The dataset must yield batches, and "{key}" is a single '
                "value. Call `.batch(batch_size)` on it."
            )
    # Bad keys and bad rows are a plain error now, rather than one from inside
    # the pipeline in the middle of an epoch.
    first = next(iter(dataset.take(1).as_numpy_iterator()), None)
    if first is None:
        raise ValueError("The dataset is empty. Received: no batch.")
    first = _only_x(first)
    batch_size = len(next(iter(first.values())))
    first = pack(first)
    rows = next(iter(spec.values())).shape[0]
    skips = pack.long_prompts.rule == "skip"
    skipped = SkippedPrompts(argument)
    # There may be no end to report at.
    endless = dataset.cardinality() == tf.data.INFINITE_CARDINALITY

    def pack_arrays(index, *arrays):
        batch = dict(zip(spec, arrays))
        packed = pack(batch)
        skipped.count(batch, packed, int(index))
        if endless:
            skipped.report()
        return list(packed.values())

    def pack_tensors(index, element):
        batch = _only_x(element)
        outputs = tf.numpy_function(
            pack_arrays,
            [index, *(batch[key] for key in spec)],
            [tf.as_dtype(value.dtype) for value in first.values()],
        )
        for key, output in zip(first, outputs):
            length = _static_length(key, spec, pack, first)
            output.set_shape((None if skips else rows, length))
        return dict(zip(first, outputs))

    packed = dataset.enumerate().map(pack_tensors)
    if skips:
        packed = _rebatch(packed, batch_size, rows is not None, skipped)
    return packed.prefetch(tf.data.AUTOTUNE), tuple(first)


def _static_length(key, spec, pack, first):
    """The number of columns of a packed batch, where all have the same."""
    known = key not in spec or spec[key].shape[1] is not None
    if key in TOKEN_KEYS[:3] and pack.sequence_length is not None:
        known = True
    return first[key].shape[1] if known else None


def _rebatch(dataset, batch_size, drop_remainder, skipped):
    """Fills batches up again, and reports what is missing at the end."""

    def report():
        skipped.report()
        yield from ()

    dataset = dataset.rebatch(batch_size, drop_remainder=drop_remainder)
    return dataset.concatenate(
        tf.data.Dataset.from_generator(
            report, output_signature=dataset.element_spec
        )
    )


def _only_x(element):
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Distillation takes its targets from the teacher: the data must be "
            'dicts of "prompts" and "responses" alone, without `y` or '
            "`sample_weight`."
        )
    return x
