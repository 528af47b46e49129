"""Lines of strict JSON, which a resumed training continues."""

import json

import keras
import numpy as np
import pytest

from keras_skd.callbacks import JSONLinesLogger
from tests.support.distillers import HELD_OUT
from tests.support.distillers import text_distiller


def _refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def read(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(x, parse_constant=_refuse) for x in text.splitlines()]


class NotNumbers(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs.update(nan=float("nan"), infinite=float("inf"))


@pytest.fixture(scope="module")
def distiller():
    return text_distiller(rollout="supervised")


def test_a_line_for_each_epoch(distiller, tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    start = int(distiller.training_step)
    history = distiller.fit(
        HELD_OUT,
        batch_size=2,
        epochs=2,
        callbacks=[NotNumbers(), JSONLinesLogger(path)],
        verbose=0,
    ).history
    lines = read(path)
    assert [line["epoch"] for line in lines] == [0, 1]
    assert [line["step"] - start for line in lines] == [2, 4]
    for name in ("loss", "response_length", "teacher_token_fraction"):
        assert [line[name] for line in lines] == history[name]
    # Both are numbers in Python, and neither is in JSON.
    assert lines[0]["nan"] is None and lines[0]["infinite"] is None
    assert {*lines[0]} == {"epoch", "step", *history}


def test_lines_of_batches_between_those_of_epochs(distiller, tmp_path):
    path = tmp_path / "log.jsonl"
    distiller.fit(
        HELD_OUT,
        batch_size=1,
        epochs=2,
        callbacks=[JSONLinesLogger(path, every_n_batches=3)],
        verbose=0,
    )
    batches = [(line["epoch"], line.get("batch")) for line in read(path)]
    # Of eight batches, the third and the sixth.
    assert batches == [(0, 2), (0, None), (1, 1), (1, None)]


def test_a_resumed_training_goes_on_after_the_last_whole_line(
    distiller, tmp_path
):
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "lo')
    for epoch in (1, 2):
        distiller.fit(
            HELD_OUT,
            epochs=epoch + 1,
            initial_epoch=epoch,
            callbacks=[JSONLinesLogger(str(path))],
            verbose=0,
        )
    lines = read(path)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[0] == {"epoch": 0} and "loss" in lines[1]


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="`every_n_batches`.*Received: 1.5"):
        JSONLinesLogger(tmp_path / "log.jsonl", every_n_batches=1.5)
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        JSONLinesLogger(tmp_path / "log.jsonl", every_n_batches=0)


def test_it_is_a_callback_of_a_distiller(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((1, 1))
    logger = JSONLinesLogger(tmp_path / "log.jsonl")
    with pytest.raises(TypeError, match="Distiller.fit.*Received: a Sequent"):
        model.fit(x, x, callbacks=[logger], verbose=0)
