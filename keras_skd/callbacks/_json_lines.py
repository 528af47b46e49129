import json
import math
import os
from typing import BinaryIO

import keras

from keras_skd._checks import check_integer
from keras_skd.callbacks._checks import check_distiller


class JSONLinesLogger(keras.callbacks.Callback):
    """Writes the logs of `fit` to a file, a line of JSON for each epoch.

    Each line is an object with `"epoch"` (from 0, as in Keras), `"step"` (the
    number of batches trained on) and the logs of the epoch. List it last, so
    that the logs have the values that other callbacks add. The lines are strict
    JSON, in which NaN and infinity are `null`, and are flushed one by one. An
    existing file is appended to; an incomplete last line, which a killed
    process may leave, is removed.

    Args:
        path: str or path, the file.
        every_n_batches: int. Also write a line after this number of batches,
            with `"batch"` (in the epoch, from 0) and the logs so far. Defaults
            to `None`, only after epochs.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `every_n_batches` is below 1.

    Example:

    ```python
    distiller.fit(
        {"prompts": prompts},
        callbacks=[keras_skd.callbacks.JSONLinesLogger("log.jsonl")],
    )
    with open("log.jsonl") as file:
        print(file.read())
    ```
    """

    first_process_only = True

    def __init__(
        self, path: str | os.PathLike, every_n_batches: int | None = None
    ):
        super().__init__()
        self.path = os.fspath(path)
        if every_n_batches is not None:
            check_integer("every_n_batches", every_n_batches, minimum=1)
        self.every_n_batches = every_n_batches
        self._file: BinaryIO
        self._epoch = 0
        self._batches = 0

    def on_train_begin(self, logs=None):
        self._distiller = check_distiller(self, self.model)
        self._file = open_lines(self.path)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._batches += 1
        every = self.every_n_batches
        if every is not None and self._batches % every == 0:
            self._write({"batch": batch}, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._write({}, logs)

    def on_train_end(self, logs=None):
        self._file.close()

    def _write(self, more, logs):
        self._distiller.sync_state()
        step = int(self._distiller.training_step)
        write_line(
            self._file,
            {"epoch": self._epoch, **more, "step": step, **(logs or {})},
        )


def open_lines(path: str) -> BinaryIO:
    """Opens a file to append lines to, and removes an incomplete last line."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    file = open(path, "a+b")  # noqa: SIM115 - it stays open.
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
    return file


def write_line(file: BinaryIO, values: dict):
    """Writes a line of strict JSON, and flushes it."""
    values = {name: _json_value(value) for name, value in values.items()}
    line = json.dumps(values, allow_nan=False, ensure_ascii=False)
    file.write(line.encode("utf-8", "replace") + b"\n")
    file.flush()


def _json_value(value):
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
