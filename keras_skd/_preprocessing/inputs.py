"""Any input that `fit` or `generate` takes, as packed batches."""

import keras
import numpy as np

from keras_skd._preprocessing.columns import tf
from keras_skd._preprocessing.elements import naming
from keras_skd._preprocessing.elements import no_batch
from keras_skd._preprocessing.py_dataset import PackedPyDataset
from keras_skd._preprocessing.row_report import RowReport
from keras_skd._preprocessing.rows import columns_of_data_frame
from keras_skd._preprocessing.rows import columns_of_hf_dataset
from keras_skd._preprocessing.rows import columns_of_rows
from keras_skd._preprocessing.rows import is_data_frame
from keras_skd._preprocessing.rows import is_hf_dataset
from keras_skd._preprocessing.rows import is_prompts
from keras_skd._preprocessing.rows import is_rows
from keras_skd._preprocessing.stream import Stream
from keras_skd._preprocessing.stream import is_stream
from keras_skd._preprocessing.tf_data import pack_tf_data


def prepare(data, pack, argument="x"):
    """Maps `pack` over any of the inputs that `fit` takes.

    Args:
        data: whole columns, as a dict, a list of dicts (the rows), a
            `datasets.Dataset`, a `pandas.DataFrame`, or prompts alone (a list
            or an array of strings); or batches, as a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or an iterable such as a generator or a
            `torch.utils.data.DataLoader`.
        pack: a `Packer`.
        argument: str. The argument that `data` came from, for the errors.

    Returns:
        `(data, keys)`: data that Keras' own `fit` takes, and the keys of its
        batches.
    """
    packed = _pack_any(data, pack, argument)
    if isinstance(packed, Stream):
        return packed.for_keras()
    if isinstance(packed, PackedPyDataset):
        with naming(argument):
            return packed, tuple(packed[0])
    return packed, tuple(getattr(packed, "element_spec", packed))


def gather(data, pack, argument="x"):
    """Packs all rows of any of the inputs that `fit` takes.

    Args:
        data, pack, argument: as of `prepare`. The data must come to an end.

    Returns:
        dict of NumPy arrays with at least one row.
    """
    packed = _pack_any(data, pack, argument)
    if isinstance(packed, dict):
        return packed
    endless = False
    if isinstance(packed, PackedPyDataset):
        endless = packed.num_batches is None
    elif not isinstance(packed, Stream):
        endless = packed.cardinality() == tf.data.INFINITE_CARDINALITY
    if endless:
        raise ValueError(
            f"`{argument}` must come to an end, since all of its rows are "
            "returned. Received: data without end. Pass a part of them, such "
            "as `dataset.take(1)`."
        )
    if isinstance(packed, PackedPyDataset):
        # Which would give another batch in place of one without rows.
        dataset = packed.dataset
        batches = [dataset[i] for i in range(dataset.num_batches)]
        packed = Stream(batches, pack, argument)
    elif not isinstance(packed, Stream):
        packed = packed.as_numpy_iterator()
    batches = list(packed)
    if not batches:
        raise no_batch(argument, data)
    return _concatenate(batches)


def _pack_any(data, pack, argument):
    """A dict of packed columns, or one of the kinds of packed batches."""
    if isinstance(data, tuple) and len(data) == 1:
        data = data[0]
    with naming(argument):
        columns = _whole_columns(data, pack)
    if columns is not None:
        return pack_batch(columns, pack, argument)
    if tf is not None and isinstance(data, tf.data.Dataset):
        with naming(argument):
            return pack_tf_data(data, pack, argument)
    if isinstance(data, keras.utils.PyDataset):
        return PackedPyDataset(data, pack, argument)
    if is_stream(data):
        return Stream(data, pack, argument)
    raise TypeError(
        f'`{argument}` must be a dict such as {{"prompts": [...], '
        '"responses": [...]}, a list of dicts with one row each, a list of '
        "prompts, a `datasets.Dataset`, a `pandas.DataFrame`, or batches: a "
        "`tf.data.Dataset`, a "
        "`keras.utils.PyDataset`, a `DataLoader` or another iterable of dicts. "
        f"Received: {type(data).__name__}"
    )


def _whole_columns(data, pack):
    """The data as a dict of whole columns, or `None` if they are batches."""
    if isinstance(data, dict):
        return data
    if is_rows(data):
        return columns_of_rows(data)
    if is_hf_dataset(data):
        return columns_of_hf_dataset(data, pack.column_names)
    if is_data_frame(data):
        return columns_of_data_frame(data)
    if is_prompts(data):
        return {"prompts": data}
    return None


def _concatenate(batches):
    """The rows of all batches, padded to the longest."""
    length = {
        key: max(batch[key].shape[1] for batch in batches) for key in batches[0]
    }
    return {
        key: np.concatenate(
            [
                np.pad(x[key], [(0, 0), (0, length[key] - x[key].shape[1])])
                for x in batches
            ]
        )
        for key in length
    }


def pack_batch(batch, pack, argument="x"):
    """Packs one batch, or whole columns.

    Args:
        batch: dict, as in the call of a `Packer`.
        pack: a `Packer`.
        argument: str. The argument that `batch` came from, for the errors.

    Returns:
        dict of NumPy arrays with at least one row.
    """
    with naming(argument):
        packed, counts = pack.pack(batch)
        if len(packed["token_ids"]) == 0:
            raise ValueError(
                "Every prompt leaves no room for a response, or is empty, and "
                f"was skipped: {counts.long} and {counts.empty} of "
                f"{counts.total}. Received: "
                f"`sequence_length={packed['token_ids'].shape[1]}`. Pass a "
                "larger `sequence_length` to the `Distiller`."
            )
    report = RowReport(argument)
    report.count(counts)
    report.report()
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
    with naming("inputs"):
        batch = pack.without_skipping()(inputs)
        if "response_mask" in batch:
            raise ValueError(
                "`generate` writes the responses itself: the last message of "
                'each chat must not be the assistant\'s. Received: "messages" '
                "that end with an answer."
            )
        return batch, is_single


def _is_single(value):
    return isinstance(value, (str, bytes)) or getattr(value, "shape", 0) == ()


def _in_list(value):
    is_text = isinstance(value, (str, bytes))
    return [value if is_text else np.asarray(value).item()]
