"""Two steps, a file and two steps are four steps."""

import inspect
import json
import zipfile

import h5py
import keras
import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import losses
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 16
BATCH = prompts([1, 2, 3, 5, 1, 2, 3, 4], LENGTH)


def teacher():
    return random_causal_lm("llama3", 1, num_layers=1)


def distiller(seed=5, weights=2):
    """Every part that has a state: dropout, drafts, schedules, metrics."""
    rollout = rollouts.Speculative(
        keras_skd.acceptance.TopK(keras_skd.schedules.Linear(20, 5, 4)),
        student_sampler=keras_hub.samplers.RandomSampler(temperature=0.9),
    )
    result = keras_skd.Distiller(
        teacher(),
        random_causal_lm("gpt2", weights, num_layers=1),
        rollout,
        sequence_length=LENGTH,
        stop_token_ids=(3,),
        seed=seed,
        name="kept",
    )
    result.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.02, 8)
        ),
        loss=losses.WeightedSum(
            [losses.ForwardKL(temperature=1.5), losses.ReverseKL()],
            weights=[0.7, 0.3],
        ),
        metrics=[keras_hub.metrics.Perplexity(from_logits=True)],
        hidden_state_loss=losses.HiddenStateL1(
            layers={"transformer_layer_0": "transformer_layer_0"}, weight=0.1
        ),
        micro_batch_size=3,
        loss_chunk_size=8,
    )
    return result


def train(distiller, callbacks=None):
    """Two steps, then a rollout."""
    history = distiller.fit(
        BATCH, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks
    )
    tokens = distiller.generate_rollout(BATCH)["token_ids"]
    return history.history, tokens, distiller.student.get_weights()


@pytest.fixture(scope="module")
def straight():
    """What four steps come to."""
    kept = distiller()
    train(kept)
    return train(kept)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What is saved after two steps, in every way."""
    folder = tmp_path_factory.mktemp("files")
    kept = distiller()
    checkpoints = {
        "checkpoint.keras": {},
        "best.keras": {"save_best_only": True, "monitor": "loss"},
        "checkpoint.weights.h5": {"save_weights_only": True},
    }
    train(
        kept,
        callbacks=[
            keras.callbacks.ModelCheckpoint(folder / name, **arguments)
            for name, arguments in checkpoints.items()
        ],
    )
    kept.save(folder / "saved.keras")
    keras.saving.save_model(kept, folder / "saved_by_keras.keras")
    kept.save(folder / "without_teacher.keras", include_teacher=False)
    kept.save_weights(folder / "saved.weights.h5")
    # Nothing partial is left.
    assert not [path for path in folder.iterdir() if "partial" in path.name]
    return folder


def load_weights(path):
    fresh = distiller(seed=6, weights=7)
    fresh.load_weights(path)
    return fresh


WAYS = {
    "saved.keras": keras.saving.load_model,
    "without_teacher.keras": lambda path: keras_skd.Distiller.load(
        path, teacher=teacher()
    ),
    "saved.weights.h5": load_weights,
}


@pytest.mark.parametrize("name", WAYS)
def test_training_goes_on(straight, files, name):
    loaded = WAYS[name](files / name)
    assert int(loaded.training_step) == 2
    history, tokens, weights = train(loaded)
    assert history == straight[0]
    np.testing.assert_array_equal(tokens, straight[1])
    for one, other in zip(weights, straight[2], strict=True):
        np.testing.assert_array_equal(one, other)


def contents(path):
    """Every dataset of the weights in a file."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            path = archive.open("model.weights.h5")
    values = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            values[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return values


def test_every_way_to_save_saves_the_same(files):
    def kept(path):
        # Callbacks save before the rollout that is looked at.
        values = contents(path)
        return {k: v for k, v in values.items() if "preview" not in k}

    whole = kept(files / "saved.keras")
    names = {name for name in whole if not name.startswith("teacher/")}
    assert len(names) < len(whole)
    for path in files.iterdir():
        values = kept(path)
        has_teacher = path.name in (
            "saved.keras",
            "saved_by_keras.keras",
            "checkpoint.keras",
            "best.keras",
        )
        assert values.keys() == (whole.keys() if has_teacher else names), path
        for name, value in values.items():
            np.testing.assert_array_equal(value, whole[name])


def test_a_file_says_all_that_the_distiller_is(files):
    kept = distiller()
    loaded = keras.saving.load_model(files / "saved.keras")
    for get in ("get_config", "get_compile_config"):
        configs = [
            _without_keys(json.loads(json.dumps(getattr(x, get)())))
            for x in (kept, loaded)
        ]
        assert configs[0] == configs[1]
    assert loaded.name == "kept"
    assert not loaded.teacher.trainable


def test_configs_have_every_argument():
    """An argument that is added has to be saved, too."""
    kept = distiller()
    for function, config, left_out in (
        (keras_skd.Distiller.__init__, kept.get_config(), {"self", "kwargs"}),
        (
            keras_skd.Distiller.compile,
            kept.get_compile_config(),
            {"self", "loss_weights"},
        ),
    ):
        arguments = set(inspect.signature(function).parameters)
        assert arguments - left_out == set(config) - {"name"}


def _without_keys(config):
    """Leaves out what is different in each process, or each object."""
    if isinstance(config, list):
        return [_without_keys(x) for x in config]
    if not isinstance(config, dict):
        return config
    drop = ("tokenizer_key", "shared_object_id", "name", "build_config")
    return {k: _without_keys(v) for k, v in config.items() if k not in drop}


def test_a_clone_has_weights_of_its_own():
    kept = distiller()
    clone = keras.models.clone_model(kept)
    assert not {id(v) for v in kept.variables} & {
        id(v) for v in clone.variables
    }
    clone.set_weights(kept.get_weights())
    for original, copied in (
        (kept.teacher, clone.teacher),
        (kept.student, clone.student),
    ):
        for one, other in zip(original.get_weights(), copied.get_weights()):
            np.testing.assert_array_equal(one, other)
    assert clone.compiled
    clone.rollout.set_seed(1)
    before = kept.rollout.variables[0].numpy()
    np.testing.assert_array_equal(before, kept.rollout.variables[0].numpy())


def test_a_file_without_teacher_asks_for_one(files):
    with pytest.raises(ValueError, match="Distiller.load"):
        keras.saving.load_model(files / "without_teacher.keras")
    # The next file is loaded as ever, and saves its teacher.
    path = files.parent / "again.keras"
    loaded = keras_skd.Distiller.load(
        files / "without_teacher.keras", teacher=teacher()
    )
    loaded.save(path)
    again = keras_skd.Distiller.load(path)
    for one, other in zip(
        again.teacher.get_weights(), teacher().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_load_refuses_another_model(tmp_path):
    path = tmp_path / "dense.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with pytest.raises(TypeError, match="Sequential"):
        keras_skd.Distiller.load(path)


def test_a_failed_save_leaves_the_file_before(tmp_path, monkeypatch):
    kept = distiller()
    path = tmp_path / "kept.weights.h5"
    kept.save_weights(path)
    before = path.read_bytes()

    def fail(store):
        raise OSError("no space left on device")

    monkeypatch.setattr(kept.optimizer, "save_own_variables", fail)
    for save in (kept.save_weights, lambda p: kept.save(tmp_path / "x.keras")):
        with pytest.raises(OSError, match="no space"):
            save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
