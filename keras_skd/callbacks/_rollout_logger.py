import os
import sys

import keras

from keras_skd._checks import check_integer
from keras_skd._preprocessing.columns import tf
from keras_skd._source import Source
from keras_skd.callbacks._checks import check_choice
from keras_skd.callbacks._checks import check_distiller
from keras_skd.callbacks._json_lines import open_lines
from keras_skd.callbacks._json_lines import write_line
from keras_skd.visualization import show_rollout


class RolloutLogger(keras.callbacks.Callback):
    """Shows a few rollouts after each epoch, and who wrote each token.

    What is written is what the student would train on, from random numbers of
    its own: training goes on as if nobody had looked.

    Args:
        x: dict of data, as in `Distiller.fit`.
        num_rows: int. How many rows of `x` to write, from the first.
            Defaults to `3`.
        every: int. After how many epochs to write again. Defaults to `1`.
        display: `"auto"`, `"terminal"`, `"notebook"` or `None`, where to show
            them. `"auto"` is the notebook in one, where each token says its
            rank and its probability for the teacher when the mouse is over
            it, and else the terminal. Defaults to `"auto"`.
        color: bool. Whether a terminal shows the authors by colours. Defaults
            to `None`: if standard output is a terminal. Without, the teacher's
            tokens are in `[brackets]` and the data's in `{braces}`.
        tensorboard_dir: str or path. The `log_dir` of
            `keras.callbacks.TensorBoard`, to see the rollouts there, as text.
            Needs TensorFlow. Defaults to `None`.
        jsonl_path: str or path of a file that gets a line of JSON for each
            row: `"epoch"`, `"row"`, `"prompt"`, `"response"`, and in a list
            each, `"token_ids"`, `"tokens"` and `"sources"` (such as
            `"teacher"`). Defaults to `None`.

    Attributes:
        rollout: dict of arrays, what was written last, for
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
        choices = ("auto", "terminal", "notebook", None)
        self.display = check_choice("display", display, choices)
        self.color = color
        if tensorboard_dir is not None and tf is None:
            raise ImportError(
                "`tensorboard_dir` needs TensorFlow, which writes the files: "
                "`pip install tensorflow`."
            )
        self.tensorboard_dir = tensorboard_dir
        self.jsonl_path = jsonl_path
        self.rollout: dict = {}
        self._writer = self._file = None

    def on_train_begin(self, logs=None):
        check_distiller(self, self.model)
        if self.jsonl_path is not None:
            self._file = open_lines(os.fspath(self.jsonl_path))
        if self.tensorboard_dir is not None:
            # Beside the folders "train" and "validation" of Keras' callback.
            self._writer = tf.summary.create_file_writer(
                os.path.join(os.fspath(self.tensorboard_dir), "rollouts")
            )

    def on_train_end(self, logs=None):
        for output in (self._file, self._writer):
            if output is not None:
                output.close()
        self._file = self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        notebook = _notebook()
        in_notebook = self.display == "notebook" or (
            self.display == "auto" and notebook is not None
        )
        self.rollout = self.model.generate_rollout(
            self.x, return_teacher_scores=in_notebook
        )
        view = show_rollout(self.rollout, self.model)
        if in_notebook:
            _display(view, notebook)
        elif self.display is not None:
            self._print(view, epoch)
        if self._writer is not None:
            self._write_tensorboard(view, epoch)
        if self._file is not None:
            for row, tokens in enumerate(view.tokens):
                self._write_line(epoch, row, tokens)

    def _print(self, view, epoch):
        color = self.color
        if color is None:
            color = sys.stdout.isatty()
        # Keras may be in the middle of a line.
        print(f"\nRollouts after epoch {epoch + 1}:\n{view.text(color)}\n")

    def _write_tensorboard(self, view, epoch):
        # Markdown, in which an indented line is shown as it is.
        lines = str(view).split("\n")
        text = "\n".join(f"    {line}" for line in lines)
        # `tf.summary.text` is this, and needs the package `tensorboard`.
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "text"
        with self._writer.as_default():
            tf.summary.write("rollouts", tf.constant(text), epoch, metadata)
        self._writer.flush()

    def _write_line(self, epoch, row, tokens):
        def text(is_prompt):
            return "".join(
                token.text
                for token in tokens
                if (token.source == Source.PROMPT) == is_prompt
            )

        write_line(
            self._file,
            {
                "epoch": epoch,
                "row": row,
                "prompt": text(True),
                "response": text(False),
                "token_ids": [token.token_id for token in tokens],
                "tokens": [token.text for token in tokens],
                "sources": [token.source.name.lower() for token in tokens],
            },
        )


def _notebook():
    """The module `IPython.display` in a notebook, or `None`.

    A notebook has imported it already, and nobody else needs it.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A shell in a terminal has none.
    if getattr(shell, "kernel", None) is None:
        return None
    return sys.modules.get("IPython.display")


def _display(view, notebook):
    if notebook is None:
        print(view.html)
    else:
        notebook.display(view)
