import json
import pathlib

import h5py
import keras
from keras import ops

from keras_skd._backend import global_random_state
from keras_skd._backend import set_global_random_state
from keras_skd._checks import check_integer
from keras_skd._saving import complete_file


class BackupAndRestore(keras.callbacks.Callback):
    """Goes on with a training that was killed, exactly where it was.

    Run the same script again: `fit` continues at the batch after the last
    backup, and ends with the weights, losses and tokens that it would have had
    without the interruption. A backup holds what training changes: student,
    optimizer, metrics, seeds and step, and not the frozen teacher. Whoever is
    killed while writing one leaves the one before.

    `keras.callbacks.BackupAndRestore` works with a `Distiller`, too. It starts
    an interrupted epoch from its first batch again.

    The data has to come in the same order again, so pass `shuffle=False` or
    data whose order follows from the number of the epoch. The batches of the
    epoch that were trained on are read again and skipped; other callbacks see
    them, with the metrics of the backup. List this callback last, so that a
    backup has what others change.

    Args:
        backup_dir: str or `pathlib.Path`, a local folder of this training's
            own.
        save_freq: `"epoch"` or int. When to save: at the end of each epoch, or
            after that many batches. Defaults to `"epoch"`.
        delete_checkpoint: bool. Whether the backup is deleted at the end of
            `fit`. If not, another `fit` with the same backup trains nothing,
            and has the result. Defaults to `True`.

    Raises:
        TypeError: if `save_freq` is neither `"epoch"` nor an int.
        ValueError: if `save_freq` is less than 1.

    Example:

    ```python
    backup = keras_skd.callbacks.BackupAndRestore("backup", save_freq=100)
    distiller.fit(
        {"prompts": prompts}, epochs=2, shuffle=False, callbacks=[backup]
    )
    ```
    """

    def __init__(
        self,
        backup_dir,
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ):
        super().__init__()
        if save_freq != "epoch":
            save_freq = check_integer("save_freq", save_freq, minimum=1)
        self.backup_dir = pathlib.Path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._path = self.backup_dir / "latest.weights.h5"

    def on_train_begin(self, logs=None):
        self._epoch = self._num_batches = self._num_unsaved = 0
        self._epochs: list = []
        self._logs: dict = {}
        self._metrics = None
        if not self._path.exists():
            return
        distiller = self.model
        distiller.load_weights(self._path)
        with h5py.File(self._path, "r") as file:
            progress = json.loads(file.attrs["progress"])
            # Each epoch resets them.
            self._metrics = [
                file[f"metrics/{i}"][()] for i in range(len(file["metrics"]))
            ]
        self._epoch = progress["epoch"]
        self._num_batches = progress["num_batches"]
        self._epochs = progress["epochs"]
        self._logs = progress["logs"]
        self._random_state = global_random_state()
        distiller._initial_epoch = self._epoch

    def on_epoch_begin(self, epoch, logs=None):
        distiller = self.model
        # Keras would start the next `fit` there, too.
        distiller._initial_epoch = None
        if self._metrics is None or epoch != self._epoch:
            self._epoch, self._num_batches = epoch, 0
            return
        per_step = distiller.steps_per_execution
        distiller.num_skipped = -(-self._num_batches // per_step)
        if self._num_batches:
            for v, value in zip(distiller.metrics_variables, self._metrics):
                v.assign(value)

    def on_train_batch_end(self, batch, logs=None):
        num_batches = batch + 1
        if num_batches <= self._num_batches:
            if num_batches == self._num_batches:
                # Reading the data again may have drawn.
                set_global_random_state(self._random_state)
            return
        self._num_unsaved += num_batches - self._num_batches
        self._num_batches = num_batches
        save_freq = self.save_freq
        if isinstance(save_freq, int) and self._num_unsaved >= save_freq:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self._epoch, self._num_batches = epoch + 1, 0
        self._metrics = None
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            self._logs.setdefault(name, []).append(float(value))
        if self.save_freq == "epoch":
            self._save()

    def on_train_end(self, logs=None):
        distiller = self.model
        distiller._initial_epoch = None
        # What `fit` returns, with the epochs before the interruption.
        history = keras.callbacks.History()
        history.set_params(self.params)
        history.set_model(distiller)
        history.epoch = self._epochs
        history.history = self._logs
        distiller.history = history
        if self.delete_checkpoint and self._path.exists():
            self._path.unlink()
            if not any(self.backup_dir.iterdir()):
                self.backup_dir.rmdir()

    def _save(self):
        self._num_unsaved = 0
        progress = {
            "epoch": self._epoch,
            "num_batches": self._num_batches,
            "epochs": self._epochs,
            "logs": self._logs,
        }
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        with complete_file(self._path) as partial:
            self.model.save_weights(partial)
            # In the same file: both are there, or neither.
            with h5py.File(partial, "r+") as file:
                file.attrs["progress"] = json.dumps(progress)
                metrics = file.create_group("metrics")
                for i, variable in enumerate(self.model.metrics_variables):
                    metrics[str(i)] = ops.convert_to_numpy(variable)
