import os
import sys
from typing import BinaryIO

import keras

from keras_skd._checks import check_integer
from keras_skd._source import Source
from keras_skd.callbacks._checks import check_choice
from keras_skd.callbacks._checks import check_distiller
from keras_skd.callbacks._json_lines import open_lines
from keras_skd.callbacks._json_lines import write_line
from keras_skd.callbacks._tensorboard import TensorBoardText
from keras_skd.callbacks._tensorboard import check_tensorboard
from keras_skd.visualization import show_rollout


class RolloutLogger(keras.callbacks.Callback):
    """Shows a few rollouts after each epoch, and the author of each token.

    The rollouts are like those that the student trains on, but use their own
    random numbers, so that they do not affect the training.

    Args:
        x: dict of data, as in `Distiller.fit`.
        num_rows: int. How many rows of `x` to write, from the first.
            Defaults to `3`.
        every: int. The number of epochs between two outputs. Defaults to `1`.
        display: `"auto"`, `"terminal"` or `None`, where to show them. `"auto"`
            is HTML in a notebook, where hovering over a token shows the
            teacher's rank and probability of it, and otherwise the terminal.
            Defaults to `"auto"`.
        color: bool. Whether a terminal shows the authors by colours. Defaults
            to `None`: only if standard output is a terminal. Without colours,
            the teacher's tokens are in `[brackets]`, the data's in `{braces}`.
        tensorboard_dir: str or path. The `log_dir` of
            `keras.callbacks.TensorBoard`, to see the rollouts there, as text.
            Needs TensorFlow. Defaults to `None`.
        jsonl_path: str or path. A file to append to, with a line of JSON for
            each row: the values `"epoch"`, `"row"`, `"prompt"` and
            `"response"`, and the lists `"token_ids"`, `"tokens"` and
            `"sources"` (such as `"teacher"`). Defaults to `None`.

    Attributes:
        rollout: dict of arrays, the last rollout, for
            `keras_skd.visualization.show_rollout`.

    Raises:
        ImportError: if `tensorboard_dir` is given, without TensorFlow.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of its range.

    Example:

    ```python
    logger = keras_skd.callbacks.RolloutLogger(
        {"prompts": prompts}, num_rows=2, jsonl_path="rollouts.jsonl"
    )
    distiller.fit({"prompts": prompts}, callbacks=[logger])
    ```
    """

    first_process_only = True

    def __init__(
        self,
        x: dict,
        num_rows: int = 3,
        *,
        every: int = 1,
        display: str | None = "auto",
        color: bool | None = None,
        tensorboard_dir: str | os.PathLike | None = None,
        jsonl_path: str | os.PathLike | None = None,
    ):
        super().__init__()
        if not isinstance(x, dict):
            raise TypeError(
                '`x` must be a dict such as {"prompts": [...]}. Received: '
                f"{x!r:.60} of type {type(x).__name__}"
            )
        self.num_rows = check_integer("num_rows", num_rows, minimum=1)
        self.x = {key: column[:num_rows] for key, column in x.items()}
        self.every = check_integer("every", every, minimum=1)
        choices = ("auto", "terminal", None)
        self.display = check_choice("display", display, choices)
        self.color = color
        if tensorboard_dir is not None:
            check_tensorboard()
        self.tensorboard_dir = tensorboard_dir
        self.jsonl_path = jsonl_path
        self.rollout: dict = {}
        self._writer: TensorBoardText | None = None
        self._file: BinaryIO | None = None

    def on_train_begin(self, logs=None):
        check_distiller(self, self.model)
        if self.jsonl_path is not None:
            self._file = open_lines(os.fspath(self.jsonl_path))
        if self.tensorboard_dir is not None:
            self._writer = TensorBoardText(self.tensorboard_dir)

    def on_train_end(self, logs=None):
        for output in (self._file, self._writer):
            if output is not None:
                output.close()
        self._file = self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        in_notebook = self.display == "auto" and is_notebook()
        self.rollout = self.model.generate_rollout(
            self.x, return_teacher_scores=in_notebook
        )
        view = show_rollout(self.rollout, self.model)
        if self.display is not None:
            self._show(view, epoch, in_notebook)
        if self._writer is not None:
            self._writer.write(str(view), epoch)
        if self._file is not None:
            for row, tokens in enumerate(view.tokens):
                write_line(self._file, _line(epoch, row, tokens))

    def _show(self, view, epoch, in_notebook):
        title = f"Rollouts after epoch {epoch + 1}:"
        # Keras may be in the middle of a line.
        if in_notebook:
            print(f"\n{title}")
            sys.modules["IPython.display"].display(view)
        else:
            color = sys.stdout.isatty() if self.color is None else self.color
            print(f"\n{title}\n{view.text(color)}\n")


def _line(epoch, row, tokens):
    """A row as the values of a line of JSON."""

    def text(is_prompt):
        return "".join(
            token.text
            for token in tokens
            if (token.source == Source.PROMPT) == is_prompt
        )

    return {
        "epoch": epoch,
        "row": row,
        "prompt": text(True),
        "response": text(False),
        "token_ids": [token.token_id for token in tokens],
        "tokens": [token.text for token in tokens],
        "sources": [token.source.name.lower() for token in tokens],
    }


def is_notebook() -> bool:
    """Whether this runs in the kernel of a notebook.

    IPython is not imported for this: a kernel has imported it already.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # The shell of a terminal has no kernel.
    return getattr(shell, "kernel", None) is not None
