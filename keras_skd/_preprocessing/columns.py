"""The columns of the data, as NumPy arrays or lists of strings."""

import keras
import numpy as np

try:
    import tensorflow as tf
except ImportError:
    tf = None

STRING_KEYS = ("prompts", "responses", "teacher_prompts")
TOKEN_KEYS = (
    "token_ids",
    "padding_mask",
    "response_mask",
    "teacher_token_ids",
    "teacher_padding_mask",
)


def check_keys(batch, strings):
    """Checks that a batch has the columns it needs, and no others.

    Args:
        batch: dict.
        strings: bool. Whether it must hold strings rather than token ids.
    """
    kind, keys, other = "token ids", TOKEN_KEYS, STRING_KEYS
    needed = TOKEN_KEYS[:2]
    hint = (
        " To pass strings, give the `Distiller` or its student a "
        "`preprocessor`."
    )
    if strings:
        kind, keys, other = "strings", STRING_KEYS, TOKEN_KEYS
        needed = STRING_KEYS[:1]
        hint = " To pass token ids, use models without a `preprocessor`."
    missing = [key for key in needed if key not in batch]
    unknown = [key for key in batch if key not in keys]
    if missing or unknown:
        problems = {"missing": missing, "unknown": unknown}
        problems = [f"{v} is {k}" for k, v in problems.items() if v]
        raise ValueError(
            f"The data must be {kind}, a dict of {list(keys)} in which "
            f"{list(needed)} are required: {' and '.join(problems)}. "
            f"Received the keys: {sorted(batch, key=str)}."
            + (hint if {*batch} & {*other} else "")
        )


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
            "single value in a list."
        )
    if tf is not None and isinstance(value, tf.Tensor):
        return value.numpy()
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray):
        return value
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
    """Converts one column of text, an array, to a list of `str`."""
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
        if not isinstance(value, str):
            raise TypeError(
                f'"{key}" must be strings. Received in row {i}: {value!r} of '
                f"type {type(value).__name__}"
            )
        strings.append(value)
    return strings
