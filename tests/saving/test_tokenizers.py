"""Whole files, with tokenizers, in a process that knows nothing else."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_skd
from tests.support import tokenizers
from tests.support.causal_lms import causal_lm

ROOT = pathlib.Path(__file__).parents[2]
PROMPTS = ["Alice was", "There was nothing", "Would you tell me, please"]

LOAD = """
import json, sys
import tests.conftest
import keras, keras_skd
from tests.saving.test_tokenizers import seen

loaded = map(keras.saving.load_model, sys.argv[1:])
print("RESULT" + json.dumps([seen(distiller) for distiller in loaded]))
"""


def distiller(family, architecture, own=False):
    """Two models with a tokenizer, and one that the data has for itself."""
    preprocessor = getattr(tokenizers, family)()
    size = preprocessor.tokenizer.vocabulary_size()
    models = [
        causal_lm(
            architecture,
            seed=seed,
            vocabulary_size=size,
            preprocessor=None if own else preprocessor,
        )
        for seed in (1, 2)
    ]
    result = keras_skd.Distiller(
        *models,
        keras_skd.rollouts.Speculative(num_speculative_tokens=2),
        seed=3,
        preprocessor=preprocessor if own else None,
    )
    result.compile(optimizer="sgd")
    return result


def seen(distiller):
    """What a distiller makes of strings, with lists in the place of arrays."""
    data = {"prompts": PROMPTS, "responses": ["to get"] * 3}
    return {
        "rollout": distiller.generate_rollout(data)["token_ids"].tolist(),
        "loss": distiller.evaluate(data, verbose=0),
        "text": distiller.generate(PROMPTS, sampler="greedy"),
        "stop_token_ids": distiller.stop_token_ids,
        "student": [
            None
            if p is None
            else np.asarray(p(PROMPTS)[0]["token_ids"]).tolist()
            for p in [distiller.student.preprocessor]
        ],
    }


def test_files_load_in_a_new_process(tmp_path):
    # Of byte pairs and of sentence pieces; the second ties its weights.
    kept = [distiller("llama3", "llama3"), distiller("gemma", "gemma", True)]
    paths = [tmp_path / f"{i}.keras" for i in range(2)]
    for each, path in zip(kept, paths):
        each.save(path)
    expected = json.loads(json.dumps([seen(each) for each in kept]))
    output = subprocess.run(
        [sys.executable, "-c", LOAD, *paths],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr[-4000:]
    assert json.loads(output.stdout.split("RESULT")[1]) == expected


def test_teacher_and_student_go_on_sharing_a_tokenizer(tmp_path):
    kept = distiller("gpt2", "gpt2")
    assert kept.teacher.preprocessor is kept.student.preprocessor
    kept.save(tmp_path / "kept.keras")
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    assert loaded.teacher.preprocessor is loaded.student.preprocessor
    assert loaded.preprocessor is loaded.student.preprocessor


def test_a_teacher_of_another_tokenizer_is_refused(tmp_path):
    kept = distiller("gpt2", "gpt2")
    kept.save(tmp_path / "kept.keras", include_teacher=False)
    words = [sentence[::-1] for sentence in tokenizers.SENTENCES]
    other = tokenizers.gpt2(words)
    teacher = causal_lm("gpt2", vocabulary_size=99, preprocessor=other)
    with pytest.raises(ValueError, match="same tokenizer"):
        keras_skd.Distiller.load(tmp_path / "kept.keras", teacher=teacher)


@pytest.mark.parametrize("own", [False, True])
def test_a_clone_has_the_vocabulary(own):
    kept = distiller("gpt2", "gpt2", own)
    clone = keras.models.clone_model(kept)
    assert clone.preprocessor is not kept.preprocessor
    texts = [x.preprocessor.tokenizer(PROMPTS) for x in (kept, clone)]
    assert np.array(texts[0], object).tolist() == (
        np.array(texts[1], object).tolist()
    )
    clone.set_weights(kept.get_weights())
    clone.rollout.set_seed(3)
    data = {"prompts": PROMPTS}
    np.testing.assert_array_equal(
        clone.generate_rollout(data)["token_ids"],
        kept.generate_rollout(data)["token_ids"],
    )
    for preprocessor in (clone.preprocessor, clone.student.preprocessor):
        if preprocessor is not None and preprocessor.built:
            assert preprocessor.packer.end_value is not None
