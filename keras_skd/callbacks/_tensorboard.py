import os

from keras_skd._preprocessing.columns import tf


def check_tensorboard():
    """Checks that TensorFlow is installed.

    Raises:
        ImportError: if it is not.
    """
    if tf is None:
        raise ImportError(
            "`tensorboard_dir` needs TensorFlow, which writes the files: "
            "`pip install tensorflow`."
        )


class TensorBoardText:
    """Text in the folder of `keras.callbacks.TensorBoard`.

    Args:
        log_dir: str or path. The text is written to a folder in it, beside
            those of Keras' callback, `"train"` and `"validation"`.
    """

    def __init__(self, log_dir):
        self._writer = tf.summary.create_file_writer(
            os.path.join(os.fspath(log_dir), "rollouts")
        )

    def write(self, text: str, step: int):
        # In Markdown, indented lines are shown verbatim.
        text = "\n".join(f"    {line}" for line in text.split("\n"))
        # `tf.summary.text` does the same, but needs the package `tensorboard`.
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "text"
        with self._writer.as_default():
            tf.summary.write("rollouts", tf.constant(text), step, metadata)
        self._writer.flush()

    def close(self):
        self._writer.close()
