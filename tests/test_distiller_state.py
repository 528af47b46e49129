"""The state of a distiller: what it keeps, resets, and leaves untouched."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 24
BATCH = prompts([1, 2, 3, 5, 1, 2, 3, 4], LENGTH)


def _distiller(rollout=None, seed=None, **kwargs):
    if rollout is None:
        rollout = rollouts.Speculative(
            keras_skd.acceptance.TopK(12), num_speculative_tokens=3
        )
    models = [random_causal_lm("llama", s, num_layers=1) for s in (1, 2)]
    return keras_skd.Distiller(*models, rollout, seed=seed, **kwargs)


def _fit(distiller, learning_rate=0.1, epochs=3, callbacks=None):
    distiller.compile(optimizer=keras.optimizers.SGD(learning_rate))
    history = distiller.fit(
        BATCH, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks
    )
    return history.history, distiller.student.get_weights()


class Looks(keras.callbacks.Callback):
    """Looks at a rollout after each batch, and at different numbers of rows."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        rows = {key: value[: 3 + batch] for key, value in BATCH.items()}
        self.seen.append(self.model.generate_rollout(rows)["token_ids"])


@pytest.mark.parametrize(
    "rollout",
    [
        lambda: rollouts.Speculative(keras_skd.acceptance.TopK(12)),
        lambda: rollouts.Speculative("lossless", num_speculative_tokens=2),
        lambda: rollouts.Mixture({"on_policy": 0.5, "teacher": 0.5}),
    ],
)
def test_looking_changes_nothing(rollout):
    looks = Looks()
    history, weights = _fit(_distiller(rollout=rollout(), seed=7))
    looked, same = _fit(
        _distiller(rollout=rollout(), seed=7), callbacks=[looks]
    )
    assert history == looked
    for one, other in zip(weights, same):
        np.testing.assert_array_equal(one, other)
    # Each preview draws new tokens, for the requested number of rows.
    assert [len(seen) for seen in looks.seen] == [3, 4] * 3
    assert not (looks.seen[0] == looks.seen[2]).all()


def test_looks_repeat_with_the_seed():
    one, other = _distiller(seed=7), _distiller(seed=7)
    for batch_size in (8, 3):
        first, second = (
            d.generate_rollout(BATCH, batch_size=batch_size)
            for d in (one, other)
        )
        assert set(first) == {
            "token_ids",
            "padding_mask",
            "response_mask",
            "sources",
            "draft_mask",
        }
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])
            assert value.shape == BATCH["token_ids"].shape
        np.testing.assert_array_equal(
            np.where(BATCH["padding_mask"], first["token_ids"], 0),
            BATCH["token_ids"],
        )


def test_one_rollout_in_two_distillers():
    """Seeding the second does not make the first repeat its draws."""
    rollout = rollouts.OnPolicy()
    first = _distiller(rollout=rollout, seed=1, stop_token_ids=(3, 4, 5))
    second = _distiller(rollout=rollout, seed=2, stop_token_ids=(3, 4, 5))
    for distiller in (first, second, first):
        history, _ = _fit(distiller, learning_rate=0.0, epochs=5)
        assert len(set(history["response_length"])) > 2


def test_set_seed_restarts_what_is_compiled():
    distiller = _distiller(seed=1)
    batch = {k: keras.ops.convert_to_tensor(v) for k, v in BATCH.items()}

    def write():
        written = distiller.rollout_function(batch)["token_ids"]
        return keras.ops.convert_to_numpy(written)

    distiller.rollout.set_seed(5)
    first, second = write(), write()
    distiller.rollout.set_seed(6)
    other = write()
    distiller.rollout.set_seed(5)
    np.testing.assert_array_equal(write(), first)
    assert not (first == second).all()
    assert not (first == other).all()


def _greedy(distiller):
    return distiller.generate_rollout(BATCH)["token_ids"]


def _enable_lora(distiller):
    distiller.student.backbone.enable_lora(4)
    rng = np.random.default_rng(0)
    for weight in distiller.student.trainable_weights:
        if "lora" in weight.path:
            weight.assign(rng.normal(size=weight.shape))


def _replace_weights(distiller):
    rng = np.random.default_rng(0)
    for weight in distiller.student.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))


def _quantize(distiller):
    distiller.student.quantize("int8")


def _freeze(distiller):
    distiller.student.backbone.token_embedding.trainable = False
    _replace_weights(distiller)


@pytest.mark.parametrize(
    "change", [_enable_lora, _replace_weights, _quantize, _freeze]
)
def test_compile_forgets_what_the_models_were(change):
    def greedy_rollout():
        return _distiller(rollout=rollouts.OnPolicy("greedy"))

    distiller = greedy_rollout()
    distiller.compile()
    before = _greedy(distiller)
    distiller.evaluate(BATCH, verbose=0)
    distiller.generate(BATCH, sampler="greedy")
    change(distiller)
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    after = _greedy(distiller)
    fresh = greedy_rollout()
    change(fresh)
    np.testing.assert_array_equal(after, _greedy(fresh))
    if change is not _quantize:
        assert not (before == after).all()
    # Training writes the same as a preview.
    lengths = distiller.fit(BATCH, batch_size=8, verbose=0).history
    written = fresh.generate_rollout(BATCH)["response_mask"].sum(axis=1)
    assert lengths["response_length"] == [pytest.approx(written.mean())]


class Fails(keras.callbacks.Callback):
    """Interrupts training in the middle of the second epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


class FailsAtOnce(Fails):
    def on_train_batch_begin(self, batch, logs=None):
        raise KeyboardInterrupt


class BadBatches(keras.utils.PyDataset):
    """A dataset whose second batch cannot be read."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise OSError("a disk error")
        return BATCH


@pytest.mark.parametrize("how", ["later", "at once", "data", "evaluation"])
def test_a_failure_leaves_a_distiller_that_works(how):
    distiller = _distiller(seed=3)
    distiller.compile(optimizer=keras.optimizers.SGD(0.1))
    start = distiller.student.get_weights()
    error = KeyboardInterrupt if how in ("later", "at once") else Exception
    run = {
        "evaluation": lambda: distiller.evaluate(BadBatches(), verbose=0),
        "data": lambda: distiller.fit(BadBatches(), verbose=0, shuffle=False),
    }.get(how)
    if run is None:
        callback = Fails() if how == "later" else FailsAtOnce()

        def run():
            distiller.fit(
                BATCH,
                batch_size=4,
                epochs=3,
                verbose=0,
                callbacks=[callback],
                validation_data=BATCH,
            )

    with pytest.raises(error):
        run()
    weights = distiller.student.get_weights()
    assert all(np.isfinite(w).all() for w in weights)
    if how != "data":  # PyTorch and TensorFlow may have trained a batch.
        changed = any((a != b).any() for a, b in zip(start, weights))
        assert changed == (how == "later")
    assert np.isfinite(distiller.evaluate(BATCH, verbose=0)).all()
    distiller.compile(optimizer="adam", loss="reverse_kl")
    history = distiller.fit(
        BATCH, verbose=0, validation_data={k: v[:3] for k, v in BATCH.items()}
    )
    assert np.isfinite(history.history["val_loss"]).all()


def test_a_refused_compile_changes_nothing():
    distiller = _distiller(seed=3)
    distiller.compile(optimizer=keras.optimizers.SGD(0.1), loss="reverse_kl")
    optimizer = distiller.optimizer
    distiller.rollout.set_seed(3)
    before = distiller.evaluate(BATCH, verbose=0)
    for bad in (
        {"loss": "mse"},
        {"loss_weights": [1.0]},
        {"hidden_state_loss": "l1"},
        {"optimizer": "adamm"},
        {"steps_per_execution": 0},
        *({"loss_chunk_size": size} for size in (0, -1, 1.5, "a", True)),
    ):
        with pytest.raises((TypeError, ValueError)) as info:
            distiller.compile(**bad)
        name, value = next(iter(bad.items()))
        if name != "optimizer":  # Keras' own error.
            assert f"`{name}" in str(info.value)
            assert str(value) in str(info.value)
    assert distiller.optimizer is optimizer
    distiller.rollout.set_seed(3)
    assert distiller.evaluate(BATCH, verbose=0) == before


def test_samplers_that_are_equal_share_what_is_compiled():
    distiller = _distiller(seed=3)
    functions = distiller._generate._functions
    for _ in range(3):
        distiller.generate(BATCH, sampler=keras_hub.samplers.TopKSampler(5))
    assert len(functions) == 1
    for k in range(1, 12):
        distiller.generate(
            {key: value[:1, :4] for key, value in BATCH.items()},
            sampler=keras_hub.samplers.TopKSampler(k),
        )
    assert len(functions) <= 8


@pytest.mark.parametrize("stop_token_ids", [None, (3,), (3, 4, 5)])
def test_generate_stops_where_it_is_told(stop_token_ids):
    distiller = _distiller(seed=3, stop_token_ids=(9,))
    outputs = distiller.generate(
        BATCH, stop_token_ids=stop_token_ids, strip_prompt=True
    )
    ids, mask = outputs["token_ids"], outputs["padding_mask"]
    for row, kept in zip(ids, mask):
        response = row[kept]
        assert not np.isin(response[:-1], stop_token_ids or ()).any()
        if not kept[-1]:
            assert response[-1] in stop_token_ids
