"""`Distiller.score`: the student's own text, whatever it was trained with."""

import keras
import numpy as np
import pytest

import keras_skd
from tests.support import bad_input
from tests.support import tokenizers

DATA = {
    "prompts": ["Alice was", "The begin", "said the", "Alice", "to the"],
    "responses": [" very tired", "ning", " Cat", " said", " end"],
}


def _model(seed, **kwargs):
    preprocessor = tokenizers.gpt2(sequence_length=8)
    size = preprocessor.tokenizer.vocabulary_size()
    return bad_input.gpt2(
        size, preprocessor=preprocessor, seed=seed, dropout=0.0, **kwargs
    )


@pytest.fixture(scope="module")
def models():
    teacher, student = _model(1), _model(2)
    # Distributions that are not flat: they disagree.
    teacher.set_weights([2 * w for w in teacher.get_weights()])
    return teacher, student


def _written(student):
    """What KerasHub's own greedy generation writes."""
    student.compile(sampler="greedy")
    prompts = DATA["prompts"]
    # It takes the padding for the end token, which has the same id here. The
    # student writes none.
    texts = student.generate(prompts, stop_token_ids=None)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts)]


def _distiller(models, rollout, **kwargs):
    distiller = keras_skd.Distiller(*models, rollout, seed=3)
    distiller.compile(optimizer=keras.optimizers.SGD(0.0), **kwargs)
    return distiller


@pytest.mark.parametrize(
    ("rollout", "loss"),
    [("on_policy", "reverse_kl"), ("supervised", "cross_entropy")],
)
def test_the_same_for_every_rollout_and_loss(models, rollout, loss):
    distiller = _distiller(models, rollout, loss=loss)
    before = list(map(np.array, distiller.rollout.variables))
    seen = {}

    def num_words(references, responses):
        seen.update(references=references, responses=responses)
        return sum(len(text.split()) for text in responses) / len(responses)

    scores = distiller.score(DATA, ["exact_match", num_words], batch_size=2)
    assert {*scores} == {
        "loss",
        "kl",
        "exact_match",
        "num_words",
        "acceptance_rate",
        "tokens_per_teacher_call",
    }
    logs = distiller.evaluate(DATA, batch_size=2, return_dict=True, verbose=0)
    for name, value in logs.items():
        assert scores[name] == pytest.approx(value, rel=1e-5)
    assert seen["responses"] == _written(models[1])
    assert seen["references"] == DATA["responses"]
    assert 0 < scores["acceptance_rate"] < 1
    assert scores["tokens_per_teacher_call"] > 1
    for old, new in zip(before, distiller.rollout.variables):
        np.testing.assert_array_equal(old, np.array(new))


def test_a_drafter_that_is_the_teacher_is_always_accepted(models):
    teacher, _ = models
    twin = _model(1)
    twin.set_weights(teacher.get_weights())
    distiller = _distiller((teacher, twin), "on_policy")
    scores = distiller.score(DATA, max_length=12)
    assert scores["kl"] == pytest.approx(0, abs=1e-5)
    assert scores["acceptance_rate"] > 0.99


def test_what_it_wrote_itself_matches(models):
    student = models[1]
    distiller = _distiller((None, student), "supervised")
    texts = {}

    def share(references, responses):
        texts.update(references=references, responses=responses)
        return np.mean(np.equal(references, responses))

    data = {"prompts": DATA["prompts"], "responses": _written(student)}
    scores = distiller.score(data, ["exact_match", share], batch_size=5)
    assert {*scores} == {"loss", "exact_match", "share"}
    assert texts["responses"] == data["responses"]
    # Some are tokenized to more tokens than they came from, and truncated.
    for text, reference in zip(data["responses"], texts["references"]):
        assert text.startswith(reference)
    assert scores["exact_match"] == scores["share"] > 0.5
    rows = [
        {"prompts": p, "responses": r}
        for p, r in zip(data["prompts"], data["responses"])
    ]
    again = distiller.score(rows, ["exact_match", share], batch_size=5)
    assert again == pytest.approx(scores)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: d.score({"prompts": ["Alice"]}), ['"responses"']),
        (lambda d: d.score(DATA, "bleu"), ["`metrics`", "'bleu'"]),
        (lambda d: d.score(DATA, max_length=2), ["`max_length`", "2"]),
        (lambda d: d.score(DATA, batch_size=0), ["`batch_size`", "0"]),
        (lambda d: d.score(DATA, sampler="beam"), ["sampler`", "BeamS"]),
    ],
)
def test_bad_input(models, call, words):
    distiller = _distiller(models, "supervised")
    with pytest.raises((TypeError, ValueError)) as info:
        call(distiller)
    for word in words:
        assert word in str(info.value)
