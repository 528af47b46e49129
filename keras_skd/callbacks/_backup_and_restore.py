import json
import pathlib

import h5py
import keras
from keras import ops

from keras_skd._backend import global_random_state
from keras_skd._backend import is_first_process
from keras_skd._backend import set_global_random_state
from keras_skd._checks import check_integer
from keras_skd._saving import complete_file


class BackupAndRestore(keras.callbacks.Callback):
    """Resumes a killed training at the batch after its last backup.

    Run the same script again: `fit` ends with the same weights, losses and
    tokens as without the interruption. A backup holds everything that training
    changes (student, optimizer, metrics, seeds and step), without the frozen
    teacher. If the process is killed while writing a backup, the previous one
    is kept.

    `keras.callbacks.BackupAndRestore` also works with a `Distiller`, but
    restarts an interrupted epoch at its first batch.

    The data must come in the same order again: pass `shuffle=False`, or data
    whose order depends only on the number of the epoch. The batches of the
    epoch that were trained on are read again and skipped; other callbacks see
    them, with the metrics of the backup. List this callback last, so that a
    backup includes the changes of other callbacks.

    Args:
        backup_dir: str or `pathlib.Path`, a local folder that only this
            training uses.
        save_freq: `"epoch"` or int. Whether to save at the end of each epoch,
            or after this number of batches. Defaults to `"epoch"`.
        delete_checkpoint: bool. Whether the backup is deleted at the end of
            `fit`. If not, a second `fit` with the same backup restores the
            result and trains nothing. Defaults to `True`.

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
            # `fit` resets the metrics at the start of the epoch.
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
        # Otherwise, Keras would start the next `fit` there, too.
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
                # Reading the data again may have drawn random numbers.
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
        # `fit` returns this, with the epochs before the interruption.
        history = keras.callbacks.History()
        history.set_params(self.params)
        history.set_model(distiller)
        history.epoch = self._epochs
        history.history = self._logs
        distiller.history = history
        if not is_first_process():
            return
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
        values = map(ops.convert_to_numpy, self.model.metrics_variables)
        values = dict(enumerate(values))
        if is_first_process():
            self.backup_dir.mkdir(parents=True, exist_ok=True)
        with complete_file(self._path) as partial:
            self.model.save_weights(partial)
            if not is_first_process():
                return
            # In the same file, so that they cannot differ.
            with h5py.File(partial, "r+") as file:
                file.attrs["progress"] = json.dumps(progress)
                metrics = file.create_group("metrics")
                for i, value in values.items():
                    metrics[str(i)] = value
