"""`train_on_batch`, `test_on_batch` and `predict`."""

import keras
import numpy as np
import pytest

import keras_skd
from tests.support import bad_input
from tests.support import tokenizers

DATA = {
    "prompts": ["Alice was", "The begin"],
    "responses": [" very tired", "ning"],
}


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@pytest.fixture(scope="module")
def distiller():
    preprocessor = tokenizers.gpt2(sequence_length=8)
    size = preprocessor.tokenizer.vocabulary_size()
    models = (
        bad_input.gpt2(size, preprocessor=preprocessor, seed=seed, dropout=0.0)
        for seed in (1, 2)
    )
    distiller = keras_skd.Distiller(*models, "supervised")
    distiller.compile(optimizer=keras.optimizers.SGD(0.1))
    return distiller


def test_strings(distiller):
    loss, kl = distiller.evaluate(DATA, verbose=0)
    logs = distiller.test_on_batch(DATA, return_dict=True)
    assert logs == pytest.approx({"loss": loss, "kl": kl}, rel=1e-5)
    logs = distiller.train_on_batch(DATA, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    lengths = distiller._pack(DATA)["response_mask"].sum(1)
    assert logs["response_length"] == pytest.approx(lengths.mean())
    assert distiller.evaluate(DATA, verbose=0)[0] < loss
    assert int(distiller.optimizer.iterations) == 1


def test_token_ids(m):
    mask = np.array([[1, 1, 1, 1, 0, 0, 0, 0]] * 2)
    data = bad_input.ids(
        padding_mask=mask, response_mask=mask - bad_input.IDS["padding_mask"]
    )
    distiller = m.make(rollout="supervised")
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    losses = [
        distiller.evaluate(data, verbose=0)[0],
        distiller.test_on_batch(data, return_dict=True)["loss"],
        distiller.train_on_batch(data, return_dict=True)["loss"],
    ]
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-5)


@bad_input.cases(
    [
        (
            "targets",
            lambda m: m.train_on_batch(bad_input.PLAIN, np.zeros(2)),
            ValueError,
            ["`x`, and no `y`", "array([0., 0.])"],
        ),
        (
            "targets to score",
            lambda m: m.test_on_batch(bad_input.PLAIN, np.zeros(2)),
            ValueError,
            ["`x`, and no `y`"],
        ),
        (
            "sample weights",
            lambda m: m.train_on_batch(
                bad_input.PLAIN, sample_weight=np.ones(2)
            ),
            ValueError,
            ["`sample_weight`", "array([1., 1.])"],
        ),
        (
            "class weights",
            lambda m: m.train_on_batch(bad_input.PLAIN, class_weight={0: 1.0}),
            ValueError,
            ["`class_weight`"],
        ),
        (
            "a list of strings",
            lambda m: m.train_on_batch(bad_input.PROMPTS),
            TypeError,
            ["`x`", "dict", "list"],
        ),
        (
            "no responses for a rollout that needs them",
            lambda m: m.make(*m.with_text, rollout="supervised").train_on_batch(
                bad_input.PLAIN
            ),
            ValueError,
            ["`rollout=Supervised`", '"responses"'],
        ),
        (
            "a call with an array",
            lambda m: m.call(np.zeros((1, 4), int)),
            TypeError,
            ["distiller.student", "dict"],
        ),
        (
            "predictions",
            lambda m: m.predict(bad_input.PLAIN),
            NotImplementedError,
            ["distiller.student.predict", "distiller.generate", "Alice"],
        ),
        (
            "predictions of a batch",
            lambda m: m.predict_on_batch(bad_input.PLAIN),
            NotImplementedError,
            ["distiller.student.predict"],
        ),
    ],
)
def test_bad_input(m, call, error, words):
    bad_input.check(m, call, error, words)
