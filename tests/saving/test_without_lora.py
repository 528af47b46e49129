"""A teacher that is the student's base: one copy of the weights."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd.decoding import CachedCausalLM
from tests.support.writing import forward
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 16
SHORT = prompts([1, 2, 3, 4], LENGTH)
LONG = prompts([5, 6, 7, 8], 2 * LENGTH, seed=1)
BATCH = {**SHORT, **{f"teacher_{key}": value for key, value in LONG.items()}}
# A bias beside the adapters, a head of its own, a tied one.
ARCHITECTURES = ["qwen", "llama", "gemma3"]


def with_lora(architecture="qwen", rank=2, filled=True):
    student = random_causal_lm(architecture, 1, num_layers=1)
    student.backbone.enable_lora(rank)
    if filled:
        rng = np.random.default_rng(0)
        for layer in student.backbone._flatten_layers():
            if getattr(layer, "lora_enabled", False):
                shape = layer.lora_kernel_b.shape
                layer.lora_kernel_b.assign(rng.normal(size=shape))
    return student


def distiller(student, teacher=None, micro_batch_size=None, **kwargs):
    result = keras_skd.Distiller(
        teacher or keras_skd.without_lora(student),
        student,
        keras_skd.rollouts.Speculative(
            keras_skd.acceptance.TopK(12), num_speculative_tokens=2
        ),
        seed=3,
        **kwargs,
    )
    result.compile(
        optimizer=keras.optimizers.Adam(0.05),
        hidden_state_loss=keras_skd.losses.HiddenStateL1(weight=0.1),
        micro_batch_size=micro_batch_size,
    )
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_teacher_is_the_base(architecture):
    """Its tokens, logits and training are those of a model of its own."""
    student = with_lora(architecture)
    base = random_causal_lm(architecture, 1, num_layers=1)
    shared = CachedCausalLM(keras_skd.without_lora(student))
    ids = np.tile(np.arange(1, 9, dtype="int32"), (2, 1))
    expected = forward(base)(ids)
    tensor = ops.convert_to_tensor(ids)
    hidden_states = shared.hidden_states(tensor, ops.ones_like(tensor))
    # `expected` is compiled, which rounds differently.
    np.testing.assert_allclose(
        ops.convert_to_numpy(shared.logits(hidden_states)), expected, atol=1e-5
    )
    # The student is not what it was.
    assert np.abs(forward(student)(ids) - expected).max() > 0.01


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_training_is_that_of_two_models(micro_batch_size):
    student, other = with_lora(), with_lora()
    base = random_causal_lm("qwen", 1, num_layers=1)
    one = distiller(student, micro_batch_size=micro_batch_size)
    for variable in other.trainable_variables:
        variable.trainable = "lora" in variable.path
    two = distiller(other, base)
    before = base.get_weights()
    histories = [
        x.fit(BATCH, epochs=2, shuffle=False, verbose=0).history
        for x in (one, two)
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-5)
    for a, b in zip(student.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # The adapters are trained, and nothing of the base.
    shared = [v for v in student.weights if "lora" not in v.path]
    for variable, value in zip(shared, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert histories[0]["loss"][1] < histories[0]["loss"][0]
    assert all("lora" in v.path for v in one.trainable_variables)


def size(models):
    """Bytes of the variables of models, each counted once."""
    unique = {id(v): v for model in models for v in model.variables}
    return sum(ops.convert_to_numpy(v).nbytes for v in unique.values())


def test_there_is_one_copy_of_the_base():
    student = with_lora()
    base = random_causal_lm("qwen", 1, num_layers=1)
    shared = distiller(student)
    adapters = sum(
        ops.convert_to_numpy(v).nbytes for v in student.trainable_variables
    )
    seeds = size([student]) - size([base]) - adapters
    assert 0 <= seeds <= 64
    assert size([shared.student, shared]) < size([base, student]) - 0.9 * size(
        [base]
    )


def test_both_go_on_after_loading(tmp_path):
    kept = distiller(with_lora())
    straight = distiller(with_lora())
    for x in (straight, straight, kept):
        history = x.fit(BATCH, batch_size=2, shuffle=False, verbose=0).history
        if x is straight:
            expected = history
    path = tmp_path / "kept.keras"
    kept.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.teacher.student is loaded.student
    loaded_by_weights = distiller(with_lora(filled=False))
    loaded_by_weights.load_weights(path)
    for x in (loaded, loaded_by_weights):
        history = x.fit(BATCH, batch_size=2, shuffle=False, verbose=0).history
        assert history == expected
        for a, b in zip(
            x.student.weights, straight.student.weights, strict=True
        ):
            np.testing.assert_array_equal(
                ops.convert_to_numpy(a), ops.convert_to_numpy(b), a.path
            )
    # What KerasHub saves of it is what it would have saved.
    loaded.student.backbone.save_lora_weights(tmp_path / "kept.lora.h5")
    with h5py.File(tmp_path / "kept.lora.h5") as file:
        assert len(file["lora"]) > 1


def test_what_is_frozen_stays_frozen(tmp_path):
    """A student with LoRA and one frozen layer, and a teacher of its own."""
    student = random_causal_lm("llama", 1, num_layers=2)
    student.backbone.transformer_layers[0].trainable = False
    embedding = student.backbone.token_embedding
    embedding.weights[0].trainable = False
    kept = keras_skd.Distiller(
        random_causal_lm("llama", 2, num_layers=1), student, seed=3
    )
    kept.compile(optimizer="adam")
    kept.fit(SHORT, batch_size=4, verbose=0)
    kept.save(tmp_path / "kept.keras")
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    assert [v.shape for v in loaded.trainable_variables] == [
        v.shape for v in kept.trainable_variables
    ]
    assert [v.trainable for v in loaded.student.variables] == [
        v.trainable for v in kept.student.variables
    ]


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: keras_skd.without_lora("qwen"), TypeError, "`student`"),
        (
            lambda: keras_skd.without_lora(random_causal_lm("qwen")),
            ValueError,
            "enable_lora",
        ),
        (
            lambda: keras_skd.Distiller(
                keras_skd.without_lora(with_lora()), with_lora()
            ),
            ValueError,
            "different model",
        ),
    ],
)
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_quantized_models_come_back(tmp_path):
    """An int8 teacher, and a student with LoRA on int8 weights."""
    teacher = random_causal_lm("llama", 2, num_layers=1)
    teacher.quantize("int8")
    student = random_causal_lm("llama", 1, num_layers=1)
    student.quantize("int8")
    student.backbone.enable_lora(2)
    kept = keras_skd.Distiller(teacher, student, seed=3)
    kept.compile(optimizer="sgd")
    kept.save(tmp_path / "kept.keras")
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    for one, other in zip(kept.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), one.path
        )
        assert one.dtype == other.dtype
        assert one.trainable == other.trainable
