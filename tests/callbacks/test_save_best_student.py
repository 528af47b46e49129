"""The best student, whole at every moment."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_skd.callbacks import SaveBestStudent
from keras_skd.callbacks._save_best_student import replace_folder
from tests.support import tokenizers
from tests.support.distillers import HELD_OUT
from tests.support.distillers import models
from tests.support.distillers import text_distiller


class Weights(keras.callbacks.Callback):
    """The student's weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.model.sync_state()
        student = self.model.student
        self.epochs.append([ops.convert_to_numpy(w) for w in student.weights])


def test_the_best_is_kept_and_loads(tmp_path):
    distiller = text_distiller(
        rollout="supervised",
        teacher_and_student=models(tokenizers.gpt2(sequence_length=16)),
    )
    # The first steps help, and then the student is thrown far off.
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 1e4])
    distiller.compile(optimizer=keras.optimizers.SGD(rates))
    path = tmp_path / "models" / "best"
    weights, keep = Weights(), SaveBestStudent(path)
    losses = distiller.fit(
        HELD_OUT,
        batch_size=4,
        epochs=4,
        validation_data=HELD_OUT,
        callbacks=[weights, keep],
        verbose=0,
    ).history["val_loss"]
    best = int(np.argmin(losses))
    assert 0 < best < 3
    assert keep.best == losses[best]
    assert [x.name for x in path.parent.iterdir()] == ["best"]

    student = keras_hub.models.CausalLM.from_preset(str(path))
    for loaded, kept in zip(student.weights, weights.epochs[best], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(loaded), kept)
    prompt = HELD_OUT["prompts"][1]
    assert student.generate(prompt, max_length=16).startswith(prompt)

    # Resumed, it does not take a worse one for the best.
    again = SaveBestStudent(path, baseline=keep.best)
    distiller.fit(
        HELD_OUT, validation_data=HELD_OUT, callbacks=[again], verbose=0
    )
    student = keras_hub.models.CausalLM.from_preset(str(path))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(student.weights[0]), weights.epochs[best][0]
    )


def _preset(path, content="old"):
    path.mkdir()
    (path / "config.json").write_text(content)
    return path


def test_a_save_that_fails_leaves_the_preset_of_before(tmp_path):
    path = _preset(tmp_path / "best")

    def write(new):
        _preset(tmp_path / "best.new", "half of it")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(str(path), write)
    assert (path / "config.json").read_text() == "old"
    # The next one is not in the way of what that one left.
    replace_folder(str(path), lambda new: _preset(tmp_path / "best.new", "new"))
    assert (path / "config.json").read_text() == "new"
    assert [x.name for x in tmp_path.iterdir()] == ["best"]


def test_killed_between_the_renames(tmp_path):
    _preset(tmp_path / "best.old", "old")
    _preset(tmp_path / "best.new", "new")
    SaveBestStudent(tmp_path / "best")
    assert (tmp_path / "best" / "config.json").read_text() == "old"


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_loss", "min"),
        ("loss", "min"),
        ("val_edit_distance", "min"),
        ("val_acceptance_rate", "max"),
        ("val_exact_match", "max"),
        ("val_rouge_l_f1_score", "max"),
    ],
)
def test_mode_follows_from_the_name(tmp_path, monitor, mode):
    assert SaveBestStudent(tmp_path / "x", monitor).mode == mode


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="`mode='min'`.*'val_mine'"):
        SaveBestStudent(tmp_path / "x", "val_mine")
    with pytest.raises(ValueError, match="`mode` must be one of.*'best'"):
        SaveBestStudent(tmp_path / "x", mode="best")
    (tmp_path / "thesis.txt").write_text("Years of work.")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match="`path` must be a new folder"):
            SaveBestStudent(path)
    assert (tmp_path / "thesis.txt").read_text() == "Years of work."


def test_a_value_that_is_not_there(tmp_path):
    distiller = text_distiller(rollout="supervised")
    with pytest.raises(ValueError, match="no such value.*'loss'.*validation_d"):
        distiller.fit(
            HELD_OUT, callbacks=[SaveBestStudent(tmp_path / "x")], verbose=0
        )
