"""The columns of the data, as NumPy arrays or lists of strings."""

import keras
import numpy as np

from keras_skd._preprocessing.column_names import TOKEN_KEYS

try:
    import tensorflow as tf
except ImportError:
    tf = None


def pad_token_ids(batch):
    """Pads lists of token ids and their masks, where rows differ in length.

    Nothing happens to those of which a mask has other lengths than its tokens.

    Args:
        batch: dict with the keys of `TOKEN_KEYS`.

    Returns:
        dict like `batch`, with arrays in place of such lists.
    """
    padded = dict(batch)
    for keys in (TOKEN_KEYS[:3], TOKEN_KEYS[3:]):
        columns = {key: batch[key] for key in keys if key in batch}
        lengths = {key: _lengths(rows) for key, rows in columns.items()}
        first = next(iter(lengths.values()), None)
        if not first or any(other != first for other in lengths.values()):
            continue
        for key, rows in columns.items():
            padded[key] = np.array(
                [[*row, *[0] * (max(first) - len(row))] for row in rows]
            )
    return padded


def _lengths(rows):
    """The lengths of lists of numbers, or `None` of anything else."""
    if not isinstance(rows, (list, tuple)):
        return None
    if any(isinstance(r, str) or np.ndim(r) != 1 for r in rows):
        return None
    return [len(row) for row in rows]


def to_array(key, value):
    """Converts one column to a NumPy array."""
    if hasattr(value, "to_list"):  # A ragged tensor.
        value = value.to_list()
    is_sequence = hasattr(value, "__iter__") and not hasattr(
        value, "element_spec"
    )
    if isinstance(value, (str, bytes, dict, set)) or not is_sequence:
        raise TypeError(
            f'"{key}" must be a list or an array with one value per row. '
            f"Received: {value!r:.60} of type {type(value).__name__}. Put a "
            "single value in a list, and single rows in batches."
        )
    if tf is not None and isinstance(value, tf.Tensor):
        return value.numpy()
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    if hasattr(value, "__array__"):
        # Also the tensors of a backend that is not Keras'.
        return np.asarray(value)
    value = list(value)
    if any(isinstance(v, (str, bytes)) or v is None for v in value):
        return np.array(value, dtype=object)
    try:
        return np.array(value)
    except ValueError as error:
        lengths = [len(v) if hasattr(v, "__len__") else 1 for v in value]
        row = int(np.argmax(np.not_equal(lengths, lengths[0])))
        advice = "Pass one string per row."
        if key in TOKEN_KEYS:
            advice = (
                "Pad the rows on the right to the same length, and mark "
                'their tokens in "padding_mask".'
            )
        raise ValueError(
            f'"{key}" must have rows of the same length. Received: '
            f"{lengths[0]} values in row 0 and {lengths[row]} in row {row}. "
            f"{advice}"
        ) from error


def to_strings(key, values):
    """Converts one column of text, an array, to a list of `str`.

    A missing response (`None`) is an empty one.
    """
    if values.ndim != 1:
        raise ValueError(
            f'"{key}" must be one string per row, of shape (batch,). Received '
            f"shape: {values.shape}"
        )
    if len(values) == 0:
        raise ValueError(f'"{key}" is empty. Received: no rows.')
    strings = []
    for i, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f'"{key}" must be text in UTF-8. Received in row {i}: '
                    f"{value[:40]!r}"
                ) from error
        if value is None and key == "responses":
            value = ""
        if not isinstance(value, str):
            raise TypeError(
                f'"{key}" must be strings. Received in row {i}: {value!r} of '
                f"type {type(value).__name__}"
            )
        strings.append(value)
    return strings


def to_chats(values):
    """The column of chats, as a list with one list of messages per row."""
    is_column = hasattr(values, "__iter__") and not isinstance(
        values, (str, bytes, dict)
    )
    chats = list(values) if is_column else [values]
    if not is_column or any(isinstance(chat, dict) for chat in chats):
        raise TypeError(
            '"messages" must have one list of messages per row: put the '
            f"messages of a single chat in a list. Received: {values!r:.60} of "
            f"type {type(values).__name__}"
        )
    if not chats:
        raise ValueError('"messages" is empty. Received: no rows.')
    return chats
