import json

import h5py
import keras
import numpy as np
import pytest

import keras_skd
from tests.support import kill_and_resume
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 16
BATCH = prompts([1, 2, 3, 5] * 3, LENGTH)
HELD_OUT = prompts([2, 3], LENGTH, seed=4)


def distiller():
    result = keras_skd.Distiller(
        random_causal_lm("llama", 1, num_layers=1),
        random_causal_lm("gpt2", 2, num_layers=1),
        keras_skd.rollouts.Speculative(
            keras_skd.acceptance.TopK(12), num_speculative_tokens=2
        ),
        seed=3,
    )
    result.compile(optimizer=keras.optimizers.Adam(0.01))
    return result


class Interrupts(keras.callbacks.Callback):
    """Raises at a batch of an epoch."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def fit(distiller, callbacks, epochs=2):
    return distiller.fit(
        BATCH,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        validation_data=HELD_OUT,
        callbacks=callbacks,
    )


@pytest.mark.slow
def test_a_killed_training_is_the_same(tmp_path):
    """`kill -9`, as in `make test-kill`."""
    report = kill_and_resume.compare(
        tmp_path, kills=2, epochs=2, num_speculative_tokens=2
    )
    assert report.startswith("2 kills")


@pytest.fixture(scope="module")
def straight():
    kept = distiller()
    return fit(kept, []).history, kept.student.get_weights()


# After the last batch of an epoch (of three), and in the middle of the second.
@pytest.mark.parametrize("save_freq, at", [(3, (1, 0)), (2, (1, 2))])
def test_an_interrupted_epoch_goes_on(tmp_path, straight, save_freq, at):
    def backup():
        return keras_skd.callbacks.BackupAndRestore(
            tmp_path / "backup", save_freq=save_freq
        )

    with pytest.raises(KeyboardInterrupt):
        fit(distiller(), [Interrupts(at), backup()])
    resumed = distiller()
    history = fit(resumed, [backup()])
    assert history.history == straight[0]
    assert history.epoch == [0, 1]
    for one, other in zip(resumed.student.get_weights(), straight[1]):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "backup").exists()
    # The next training starts from the first epoch, and skips nothing.
    assert fit(resumed, [], epochs=1).epoch == [0]
    assert int(resumed.training_step) == 9


def test_a_finished_training_is_not_repeated(tmp_path, straight):
    for _ in range(2):
        kept = distiller()
        backup = keras_skd.callbacks.BackupAndRestore(
            tmp_path, delete_checkpoint=False
        )
        assert fit(kept, [backup]).history == straight[0]
        assert int(kept.training_step) == 6
    with h5py.File(tmp_path / "latest.weights.h5") as file:
        assert json.loads(file.attrs["progress"])["epoch"] == 2
        assert "student" in file
        assert "teacher" not in file


def test_the_callback_of_keras_works_too(tmp_path, straight):
    """It goes on from whole epochs, and copies no teacher either."""

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path / "backup", double_checkpoint=True
        )

    with pytest.raises(KeyboardInterrupt):
        fit(distiller(), [Interrupts((1, 1)), backup()])
    with h5py.File(tmp_path / "backup" / "latest.weights.h5") as file:
        assert "teacher" not in file
    resumed = distiller()
    history = fit(resumed, [backup()]).history
    assert history == {k: v[1:] for k, v in straight[0].items()}
    for one, other in zip(resumed.student.get_weights(), straight[1]):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "save_freq, error",
    [
        ("batch", TypeError),
        (0, ValueError),
        (1.5, TypeError),
        (True, TypeError),
    ],
)
def test_bad_save_freq(save_freq, error):
    with pytest.raises(error, match="`save_freq`") as info:
        keras_skd.callbacks.BackupAndRestore("backup", save_freq=save_freq)
    assert repr(save_freq) in str(info.value)
