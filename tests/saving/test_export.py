"""The student outside of Keras, and as a preset, with LoRA and without."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd.decoding import CachedCausalLM
from tests.support.causal_lms import ARCHITECTURES
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm

LENGTH = 12
BATCH = prompts([4, 6, 8, 12], LENGTH)
DATA = {
    **{key: np.array(value) for key, value in BATCH.items()},
    "response_mask": BATCH["padding_mask"] * (np.arange(LENGTH) >= 2),
}

# What KerasHub 0.32 exports, and what the tiny models need for it.
FAMILIES = {
    "gpt2": {},
    "llama3": {},
    "mistral": {},
    "gemma": {},
    "gemma3": {"head_dim": 4},
    "gemma4": {},
    "qwen": {},
    "qwen3_5": {},
}
GEMMA_4 = (
    "Gemma4",
    dict(
        ARCHITECTURES["gemma3"][1],
        num_layers=2,
        global_head_dim=4,
        sliding_window_pattern=2,
    ),
)
for name in ("use_post_ffw_norm", "use_post_attention_norm"):
    del GEMMA_4[1][name]


def distilled(architecture, lora=False, **overrides):
    """A student after a step of training."""
    student = random_causal_lm(architecture, 2, **overrides)
    if lora:
        student.backbone.enable_lora(2)
    distiller = keras_skd.Distiller(
        random_causal_lm(architecture, 1, **overrides),
        student,
        "supervised",
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.1))
    before = student.get_weights()
    distiller.train_on_batch(DATA)
    if lora:
        # After one step, one factor is small and the other zero.
        rng = np.random.default_rng(0)
        for variable in student.trainable_variables:
            if "lora" in variable.path:
                variable.assign(rng.normal(size=variable.shape))
    after = student.get_weights()
    assert any((a != b).any() for a, b in zip(before, after))
    return student


def keras_logits(model, token_ids):
    """The logits of a KerasHub model, with what else some of them read."""
    model = CachedCausalLM(model)
    tensor = ops.convert_to_tensor(token_ids)
    states = model.hidden_states(tensor, ops.ones_like(tensor))
    return ops.convert_to_numpy(model.logits(states))


def transformers_logits(path, token_ids):
    """The logits of an exported model, by `transformers`."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    with torch.no_grad():
        return model(torch.tensor(token_ids).long()).logits.numpy()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_transformers_reads_what_was_distilled(
    tmp_path, architecture, monkeypatch
):
    monkeypatch.setitem(ARCHITECTURES, "gemma4", GEMMA_4)
    student = distilled(architecture, **FAMILIES[architecture])
    student.export_to_transformers(str(tmp_path))
    token_ids = np.random.default_rng(0).integers(1, 32, (2, 10))
    token_ids = token_ids.astype("int32")
    logits = transformers_logits(tmp_path, token_ids)
    expected = keras_logits(student, token_ids)
    assert expected.std() > 0.05
    np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=2e-4)


def test_a_preset_has_lora_merged(tmp_path):
    student = distilled("gemma", lora=True)
    token_ids = np.arange(1, 9, dtype="int32")[None]
    expected = keras_logits(student, token_ids)
    student.save_to_preset(str(tmp_path / "merged"))
    merged = keras_hub.models.CausalLM.from_preset(str(tmp_path / "merged"))
    assert not any("lora" in v.path for v in merged.variables)
    np.testing.assert_allclose(
        keras_logits(merged, token_ids), expected, atol=1e-5, rtol=1e-5
    )


def test_lora_apart(tmp_path):
    """The base stays where it was, and a small file has the adapters."""
    student = distilled("gemma", lora=True)
    token_ids = np.arange(1, 9, dtype="int32")[None]
    path = tmp_path / "student.lora.h5"
    student.backbone.save_lora_weights(str(path))
    base = random_causal_lm("gemma", 2)
    base.backbone.load_lora_weights(str(path))
    np.testing.assert_allclose(
        keras_logits(base, token_ids),
        keras_logits(student, token_ids),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("architecture", ["gemma", "llama3"])
def test_lora_is_exported_by_way_of_a_preset(tmp_path, architecture):
    overrides = {"llama3": {"tie_word_embeddings": False}}
    student = distilled(
        architecture, lora=True, **overrides.get(architecture, {})
    )
    token_ids = np.arange(1, 9, dtype="int32")[None]
    expected = keras_logits(student, token_ids)
    student.save_to_preset(str(tmp_path / "preset"))
    merged = keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset"))
    merged.export_to_transformers(str(tmp_path / "merged"))
    logits = transformers_logits(tmp_path / "merged", token_ids)
    np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=2e-4)
    if architecture == "gemma":
        # KerasHub 0.32 exports the base alone, and docs/guides/serving.md says
        # so. When this fails, neither has to.
        student.export_to_transformers(str(tmp_path / "direct"))
        logits = transformers_logits(tmp_path / "direct", token_ids)
        assert np.abs(logits - expected).max() > 0.1
