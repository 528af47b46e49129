"""The config of every rollout, and its round trip."""

import json

import keras
import keras_hub
import pytest

from keras_skd import acceptance
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm
from tests.support.writing import write


def sampler(**config):
    """The config of a seeded sampler, as KerasHub has it."""
    return {"p": 0.5, "k": 9, "seed": 3, "temperature": 0.7, **config}


STUDENT = keras_hub.samplers.TopPSampler(**sampler())
TEACHER = keras_hub.samplers.TopPSampler(**sampler(seed=4))
# Every argument with a value other than its default.
CASES = {
    "on_policy": (
        rollouts.OnPolicy(STUDENT),
        {"student_sampler": sampler()},
    ),
    "teacher": (
        rollouts.Teacher(TEACHER),
        {"teacher_sampler": sampler(seed=4)},
    ),
    "speculative": (
        rollouts.Speculative(
            acceptance=acceptance.TopK(7),
            num_speculative_tokens=3,
            student_sampler=STUDENT,
            teacher_sampler=TEACHER,
            decoding="lockstep",
        ),
        {
            "student_sampler": sampler(),
            "teacher_sampler": sampler(seed=4),
            "acceptance": {"k": 7},
            "num_speculative_tokens": 3,
            "decoding": "lockstep",
        },
    ),
    "supervised": (rollouts.Supervised(), {}),
}


def plain(config):
    """A config with the plain configs of the objects inside."""
    return {
        key: value["config"] if isinstance(value, dict) else value
        for key, value in config.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_config_holds_every_argument(name):
    rollout, config = CASES[name]
    assert plain(rollout.get_config()) == config
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rollout)))
    for restored in (
        rollouts.get(saved),
        keras.saving.deserialize_keras_object(saved),
        type(rollout).from_config(saved["config"]),
    ):
        assert type(restored) is type(rollout)
        assert restored is not rollout
        assert plain(restored.get_config()) == config
        # The restored object is the one that the config describes.
        for attribute, of_sampler in restored.samplers().items():
            assert of_sampler.get_config() == config[attribute]


def test_names_give_the_defaults():
    for name, (rollout, _) in CASES.items():
        made = rollouts.get(name)
        assert type(made) is type(rollout)
        assert made.get_config() == type(rollout)().get_config()
    # The paper's.
    speculative = rollouts.get("speculative")
    assert isinstance(speculative.acceptance, acceptance.TopK)
    assert speculative.acceptance.k == 25


def test_what_is_restored_writes_the_same():
    models = [random_causal_lm("llama", seed, num_layers=1) for seed in (0, 1)]
    rollout = rollouts.Speculative(
        acceptance=acceptance.TopK(12),
        student_sampler=STUDENT,
        teacher_sampler=TEACHER,
        decoding="lockstep",
    )
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(rollout)))
    batch = prompts((1, 4, 6), 12)
    first, again = (
        write(r, *models, batch, xla=False)
        for r in (rollout, rollouts.get(saved))
    )
    assert {2, 3} <= set(first["sources"].ravel())
    for key in ("token_ids", "sources"):
        assert (first[key] == again[key]).all()
