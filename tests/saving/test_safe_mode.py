"""No code runs from a file, and what is missing is named."""

import json
import pathlib
import zipfile

import keras
import pytest
from keras import ops

import keras_skd
from keras_skd import losses
from keras_skd import rollouts
from tests.support.writing import random_causal_lm


@keras.saving.register_keras_serializable("tests")
def shortest(token_ids, segment, log_probs):
    return -ops.sum(ops.cast(segment, "float32"), axis=1)


def forgotten(token_ids, segment, log_probs):
    return ops.sum(log_probs, axis=1)


class ForgottenLoss(losses.Divergence):
    def divergence(self, teacher_log_probs, student_log_probs):
        return ops.sum(ops.square(teacher_log_probs - student_log_probs), -1)


def save(path, score=None, loss="forward_kl"):
    distiller = keras_skd.Distiller(
        *(random_causal_lm("llama", seed, num_layers=1) for seed in (1, 2)),
        rollouts.Segments((3, 4), score=score, threshold=-2.0),
        seed=3,
    )
    distiller.compile(loss=loss)
    distiller.save(path)
    return distiller


def test_a_registered_score_comes_back(tmp_path):
    save(tmp_path / "kept.keras", score=shortest)
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    assert loaded.rollout.score is shortest
    assert loaded.rollout.segment_end_token_ids == (3, 4)


def test_a_score_that_was_not_registered_is_named(tmp_path):
    path = tmp_path / "kept.keras"
    save(path, score=forgotten)
    with pytest.raises((TypeError, ValueError)) as info:
        keras.saving.load_model(path)
    assert "forgotten" in str(info.value)
    assert "register_keras_serializable" in str(info.value)
    loaded = keras.saving.load_model(
        path, custom_objects={"forgotten": forgotten}
    )
    assert loaded.rollout.score is forgotten


def test_a_lambda_cannot_be_saved(tmp_path):
    path = tmp_path / "kept.keras"
    with pytest.raises(ValueError, match="`score`") as info:
        save(path, score=lambda token_ids, segment, log_probs: log_probs[:, 0])
    assert "register_keras_serializable" in str(info.value)
    assert not path.exists()


def test_a_loss_that_was_not_registered_is_named(tmp_path):
    path = tmp_path / "kept.keras"
    save(path, loss=ForgottenLoss())
    with pytest.raises((TypeError, ValueError)) as info:
        keras.saving.load_model(path)
    assert "ForgottenLoss" in str(info.value)
    assert "register_keras_serializable" in str(info.value)
    loaded = keras.saving.load_model(
        path, custom_objects={"ForgottenLoss": ForgottenLoss}
    )
    assert isinstance(loaded.get_compile_config()["loss"], dict)
    # What is not compiled needs no loss.
    assert not keras.saving.load_model(path, compile=False).compiled


@pytest.mark.parametrize(
    "attack",
    [
        # The code of a lambda, which would be unmarshalled and run.
        {
            "class_name": "__lambda__",
            "config": {"value": ["4wAAAAA=", None, None]},
        },
        # A function of a module that is not Keras'.
        {
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "system",
        },
        {
            "module": "subprocess",
            "class_name": "Popen",
            "config": {"args": ["touch", "MARK"]},
            "registered_name": "Popen",
        },
    ],
)
@pytest.mark.parametrize("place", ["score", "acceptance"])
def test_a_changed_file_runs_nothing(tmp_path, attack, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "kept.keras"
    save(path, score=shortest)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    rollout = config["config"]["rollout"]
    if place == "acceptance":
        rollout["class_name"] = rollout["registered_name"] = "Speculative"
        rollout["registered_name"] = "keras_skd>Speculative"
        rollout["config"] = {"acceptance": attack}
    else:
        rollout["config"]["score"] = attack
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises((TypeError, ValueError)):
        keras.saving.load_model(path)
    with pytest.raises((TypeError, ValueError)):
        keras_skd.Distiller.load(
            path, teacher=random_causal_lm("llama", 1, num_layers=1)
        )
    assert not pathlib.Path("MARK").exists()


def test_nothing_is_pickled(tmp_path):
    """A file is JSON, HDF5 and the vocabularies."""
    save(tmp_path / "kept.keras", score=shortest)
    with zipfile.ZipFile(tmp_path / "kept.keras") as archive:
        names = archive.namelist()
    assert {pathlib.Path(name).suffix for name in names} == {".json", ".h5"}
