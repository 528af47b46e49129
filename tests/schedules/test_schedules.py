"""Schedules, and their effect in training."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd import schedules
from tests.support import writing

STEPS = np.array([0, 1, 5, 9, 10, 11, 1000])


def _linear(step):
    return np.clip(3 + (8 - 3) * step / 10, 3, 8)


def _cosine(step):
    return 8 - (8 - 3) * (1 + np.cos(np.pi * np.minimum(step / 10, 1))) / 2


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (schedules.Constant(2.5), lambda step: 2.5 + 0 * step),
        (schedules.Linear(3, 8, num_steps=10), _linear),
        (schedules.Linear(8, 3, num_steps=10), lambda step: 11 - _linear(step)),
        (schedules.Cosine(3, 8, num_steps=10), _cosine),
    ],
)
def test_values(schedule, formula):
    for kind in ("int32", "float32"):
        values = [schedule(ops.convert_to_tensor(step, kind)) for step in STEPS]
        assert {keras.backend.standardize_dtype(v.dtype) for v in values} == {
            "float32"
        }
        values = [float(v) for v in values]
        np.testing.assert_allclose(values, formula(STEPS), rtol=1e-6)
    assert float(schedule(5)) == pytest.approx(formula(np.array(5)))


@pytest.mark.parametrize(
    "schedule",
    [
        keras.optimizers.schedules.PolynomialDecay(31.0, 10, 1.0),
        keras.optimizers.schedules.CosineDecay(31.0, 10, alpha=1 / 31),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_of_keras(schedule):
    rule = acceptance.TopK(schedule)
    token_ids = np.arange(32, dtype="int32")
    logits = np.tile(-token_ids.astype("float32"), (32, 1))
    token_ids, logits = map(ops.convert_to_tensor, (token_ids, logits))
    for step, k in ((0, 31), (5, 16), (10, 1), (20, 1)):
        accepted = rule.accept(token_ids, logits, training_step=step)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(accepted), np.arange(32) < k
        )
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rule)))
    restored = keras.saving.deserialize_keras_object(saved)
    assert restored.k.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    ("schedule", "config"),
    [
        (schedules.Constant(2.5), {"value": 2.5}),
        (
            schedules.Linear(3, 8, 10),
            {"initial": 3, "final": 8, "num_steps": 10},
        ),
        (
            schedules.Cosine(3, 8, 10),
            {"initial": 3, "final": 8, "num_steps": 10},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_config_round_trip(schedule, config):
    saved = json.loads(
        json.dumps(keras.saving.serialize_keras_object(schedule))
    )
    for restored in (
        type(schedule).from_config(config),
        schedules.get(saved),
        schedules.get(
            {
                "class_name": type(schedule).__name__.lower(),
                "config": config,
            }
        ),
        schedules.get(schedule),
    ):
        assert type(restored) is type(schedule)
        assert restored.get_config() == config


def test_numbers_are_constant_schedules():
    for number in (3, 2.5):
        schedule = schedules.get(number)
        assert isinstance(schedule, schedules.Constant)
        assert float(schedule(7)) == number


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: schedules.Linear(1, 2, num_steps=0),
            ValueError,
            ["`num_steps`", "at least 1", "0"],
        ),
        (
            lambda: schedules.Cosine(1, 2, num_steps=-5),
            ValueError,
            ["`num_steps`", "-5"],
        ),
        (lambda: schedules.Linear("a", 1, 2), TypeError, ["`initial`", "'a'"]),
        (lambda: schedules.Linear(1, "b", 2), TypeError, ["`final`", "'b'"]),
        (
            lambda: schedules.Linear(1, 2, 1.5),
            TypeError,
            ["`num_steps`", "1.5"],
        ),
        (lambda: schedules.Constant("x"), TypeError, ["`value`", "'x'"]),
        (
            lambda: rollouts.Segments((True,)),
            TypeError,
            ["`segment_end_token_ids`", "True"],
        ),
        (lambda: schedules.get(True), TypeError, ["`schedule`", "True"]),
        (lambda: schedules.get(None), TypeError, ["`schedule`", "None"]),
        (
            lambda: schedules.get("linea"),
            ValueError,
            ["'linea'", "Did you mean 'linear'?"],
        ),
        (
            lambda: acceptance.TopK(lambda step: step),
            TypeError,
            ["`k`", "schedule", "function"],
        ),
        (
            lambda: acceptance.TopK({"class_name": "linea", "config": {}}),
            (TypeError, ValueError),
            ["linea"],
        ),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error) as info:
        make()
    for word in words:
        assert word in str(info.value), str(info.value)


# In training with constant models: only the acceptance rule changes.

VOCABULARY_SIZE = 32
NUM_STEPS = 4


class Counted(rollouts.Speculative):
    """Counts how often Python runs through it."""

    calls = 0

    def call(self, *args, **kwargs):
        self.calls += 1
        return super().call(*args, **kwargs)


def _fit(rule, steps=NUM_STEPS + 2):
    rollout = Counted(acceptance=rule, num_speculative_tokens=1)
    distiller = keras_skd.Distiller(
        writing.random_causal_lm("llama", seed=1, num_layers=1),
        writing.random_causal_lm("llama", seed=2, num_layers=1),
        rollout=rollout,
        seed=3,
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    batch = writing.prompts([2] * 64, sequence_length=10)
    history = distiller.fit(batch, batch_size=64, epochs=steps, verbose=0)
    return np.array(history.history["teacher_token_fraction"]), rollout.calls


def test_the_gate_closes_without_compiling_again():
    closing = schedules.Linear(VOCABULARY_SIZE, 1, NUM_STEPS)
    fractions, calls = _fit(acceptance.TopK(closing))
    if keras.backend.backend() != "torch":
        # Torch runs the Python of every step.
        assert calls == 1
    # At the first step, every token is accepted.
    assert fractions[0] == 0
    assert (np.diff(fractions[: NUM_STEPS + 1]) > 0).all()
    closed, _ = _fit(acceptance.TopK(1), steps=2)
    # Three standard deviations of the mean of 512 tokens.
    assert fractions[NUM_STEPS:] == pytest.approx(closed, abs=0.07)
