"""The elements of streams of batches, and errors about them."""

import contextlib

import keras

from keras_skd._preprocessing.rows import columns_of_rows
from keras_skd._preprocessing.rows import is_prompts
from keras_skd._preprocessing.rows import is_rows


@contextlib.contextmanager
def naming(argument):
    """Adds the argument that the data came from to errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"In `{argument}`: {error}") from error.__cause__


def only_x(element):
    """The dict of columns in an element of a data set of Keras."""
    if is_rows(element) and element:
        return columns_of_rows(element)
    if is_prompts(element):
        # Before Keras, which would take a list for `x`, `y` and weights.
        return {"prompts": element}
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Distillation takes its targets from the teacher: the data must be "
            'dicts of "prompts" and "responses" alone, without `y` or '
            "`sample_weight`."
        )
    return {"prompts": x} if is_prompts(x) else x


def no_batch(argument, data):
    """The error for data without any row to train on."""
    return ValueError(
        f"`{argument}` has no batch with a row to train on. Received: a "
        f"{type(data).__name__} that is empty, or has been read already."
    )
