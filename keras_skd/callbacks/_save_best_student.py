import os

import keras

from keras_skd._checks import check_number
from keras_skd._saving import recover_folder
from keras_skd._saving import replace_folder
from keras_skd.callbacks._checks import check_choice
from keras_skd.callbacks._checks import check_distiller

# The endings of the names of values that should be small, and large.
_SMALLER = (
    "loss",
    "kl",
    "perplexity",
    "edit_distance",
    "teacher_token_fraction",
)
_LARGER = (
    "accuracy",
    "acceptance_rate",
    "bleu",
    "exact_match",
    "f1_score",
    "precision",
    "recall",
    "tokens_per_teacher_pass",
)
# A file that every KerasHub preset has.
_PRESET = "config.json"


class SaveBestStudent(keras.callbacks.Callback):
    """Keeps the best student so far, as a KerasHub preset.

    After each epoch in which the monitored value is better than before, the
    student is saved with `save_to_preset`, to be loaded with
    `keras_hub.models.CausalLM.from_preset(path)`. The new preset is written to
    a folder beside the previous one, and then replaces it: if the process is
    killed while saving, the previous preset is kept. (If it is killed between
    two renames, the next `SaveBestStudent` of this path restores it.)

    List it after the callback that adds the monitored value, such as
    `keras_skd.callbacks.GenerationMetrics`.

    Args:
        path: str or path, the folder of the preset. One that exists must be a
            preset, or empty.
        monitor: str. The name of a value of the logs. Defaults to
            `"val_loss"`.
        mode: `"min"`, `"max"` or `"auto"`, whether smaller or larger values are
            better. `"auto"` decides by the name, for losses, distances,
            acceptance rates and scores. Defaults to `"auto"`.
        baseline: float. The first value must be better than this, for example
            than the best of a resumed training. Defaults to `None`, no
            baseline.

    Raises:
        ValueError: if an argument is out of its range, `mode` cannot be told
            from the name, or `path` is a folder of something else.

    Example:

    ```python
    distiller.fit(
        {"prompts": prompts},
        validation_data={"prompts": prompts, "responses": responses},
        epochs=2,
        callbacks=[keras_skd.callbacks.SaveBestStudent("best_student")],
    )
    student = keras_hub.models.CausalLM.from_preset("best_student")
    ```
    """

    first_process_only = True

    def __init__(
        self,
        path: str | os.PathLike,
        monitor: str = "val_loss",
        mode: str = "auto",
        baseline: float | None = None,
    ):
        super().__init__()
        self.path = os.path.abspath(os.fspath(path))
        _check_is_preset(self.path)
        self.monitor = monitor
        check_choice("mode", mode, ("min", "max", "auto"))
        self.mode = _mode_of(monitor) if mode == "auto" else mode
        if baseline is not None:
            check_number("baseline", baseline)
        self.best = baseline

    def on_train_begin(self, logs=None):
        check_distiller(self, self.model)
        recover_folder(self.path)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(
                f"`SaveBestStudent(monitor={self.monitor!r})` found no such "
                f"value in the logs. Received: {sorted(logs)}. Pass "
                "`validation_data` to `fit` for values that begin with "
                "'val_', and place the callback that adds a value before "
                "this one."
            )
        value = float(logs[self.monitor])
        if self._is_better(value):
            self.best = value
            self.model.sync_state()
            replace_folder(self.path, self.model.student.save_to_preset)

    def _is_better(self, value):
        if value != value:  # NaN.
            return False
        if self.best is None:
            return True
        return value < self.best if self.mode == "min" else value > self.best


def _mode_of(monitor):
    if monitor.endswith(_SMALLER):
        return "min"
    if monitor.endswith(_LARGER):
        return "max"
    raise ValueError(
        "`mode='auto'` does not know whether smaller or larger values are "
        "better. Pass `mode='min'` or `mode='max'`. Received: "
        f"monitor={monitor!r}"
    )


def _check_is_preset(path):
    recover_folder(path)
    is_other = os.path.exists(path) and not os.path.isdir(path)
    if os.path.isdir(path):
        names = os.listdir(path)
        is_other = bool(names) and _PRESET not in names
    if is_other:
        raise ValueError(
            "`path` must be a new folder, or the folder of a preset, which is "
            f"then replaced. Received: {path!r}, which is neither"
        )
