"""Scores of the student's text, in the history and for other callbacks."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from rouge_score import rouge_scorer

import keras_skd
from keras_skd.callbacks import GenerationMetrics
from tests.support.causal_lms import causal_lm
from tests.support.distillers import HELD_OUT
from tests.support.distillers import LENGTH
from tests.support.distillers import TRAINING
from tests.support.distillers import text_distiller


def fit(distiller, *callbacks, **kwargs):
    return distiller.fit(
        TRAINING,
        batch_size=3,
        callbacks=list(callbacks),
        **{"verbose": 0, **kwargs},
    ).history


@pytest.fixture(scope="module")
def resting():
    """A distiller whose student stays as it is, and what that writes."""
    distiller = text_distiller(rollout="on_policy")
    scores = GenerationMetrics(HELD_OUT, batch_size=3)
    history = fit(distiller, scores)
    return distiller, scores.responses, history


def test_what_is_scored_is_the_students_own_text(resting):
    distiller, responses, history = resting
    student = distiller.student
    student.compile(sampler="greedy")
    assert responses == list(
        student.generate(
            HELD_OUT["prompts"],
            max_length=LENGTH,
            strip_prompt=True,
            stop_token_ids=None,
        )
    )
    assert history["val_exact_match"] == [0.0]


def test_the_values_are_those_of_the_metrics(resting):
    distiller, responses, _ = resting
    # One is right, one nearly, and one has no word in common.
    references = [responses[0], f"{responses[1]} indeed", "?", responses[3]]
    data = {"prompts": HELD_OUT["prompts"], "responses": references}

    def lengths(references, responses):
        return {"longest": max(map(len, responses)), "count": len(references)}

    def half(references, responses):
        return ops.convert_to_tensor(0.5)

    history = fit(
        distiller,
        GenerationMetrics(
            data,
            [
                "exact_match",
                keras_hub.metrics.RougeL(),
                keras_hub.metrics.Bleu(),
                keras_hub.metrics.EditDistance(),
                lengths,
                half,
            ],
        ),
        epochs=2,
    )
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rouge = [
        scorer.score(reference, response)["rougeL"]
        for reference, response in zip(references, responses)
    ]
    words = [[x.split() for x in texts] for texts in (references, responses)]
    edits = sum(_edits(r, t) for r, t in zip(*words))
    expected = {
        "val_exact_match": 0.5,
        "val_rouge_l_precision": np.mean([x.precision for x in rouge]),
        "val_rouge_l_recall": np.mean([x.recall for x in rouge]),
        "val_rouge_l_f1_score": np.mean([x.fmeasure for x in rouge]),
        "val_edit_distance": edits / sum(map(len, words[0])),
        "val_longest": max(map(len, responses)),
        "val_count": 4,
        "val_half": 0.5,
    }
    assert 0 < expected["val_edit_distance"] < 1
    # The metrics start anew in each epoch.
    for name, value in expected.items():
        assert history[name] == pytest.approx([value] * 2), name
    assert 0 < history["val_bleu"][0] == history["val_bleu"][1] < 1


def _edits(first, second):
    """Levenshtein's distance, by its recursion."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        _edits(first[1:], second) + 1,
        _edits(first, second[1:]) + 1,
        _edits(first[1:], second[1:]) + (first[0] != second[0]),
    )


def test_early_stopping_monitors_them(resting):
    distiller, responses, _ = resting
    values = [3.0, 5.0, 4.0, 4.5, 9.0]

    def quality(references, responses):
        return values.pop(0)

    history = fit(
        distiller,
        GenerationMetrics(HELD_OUT, quality),
        keras.callbacks.EarlyStopping("val_quality", mode="max", patience=2),
        epochs=5,
    )
    assert history["val_quality"] == [3.0, 5.0, 4.0, 4.5]


def test_every_other_epoch(resting):
    distiller, *_ = resting
    history = fit(distiller, GenerationMetrics(HELD_OUT, every=2), epochs=4)
    assert len(history["val_exact_match"]) == 2 and len(history["loss"]) == 4


def test_training_goes_on_as_if_nobody_had_looked():
    def train(*callbacks):
        rollout = keras_skd.rollouts.OnPolicy("random")
        distiller = text_distiller(rollout, learning_rate=0.1)
        losses = fit(distiller, *callbacks, epochs=2)["loss"]
        return losses, distiller.student.get_weights()

    scores = GenerationMetrics(HELD_OUT, sampler="random")
    losses, weights = train()
    losses_with, weights_with = train(scores)
    assert losses == losses_with
    for without, with_scores in zip(weights, weights_with):
        np.testing.assert_array_equal(without, with_scores)
    assert len(scores.responses) == 4


def test_the_student_of_now_is_asked():
    """After training, and after `compile`, which makes new functions."""
    distiller = text_distiller(rollout="on_policy", learning_rate=1.0)
    scores = GenerationMetrics(HELD_OUT)
    written = []
    for _ in range(2):
        fit(distiller, scores, epochs=2)
        distiller.student.compile(sampler="greedy")
        own = distiller.student.generate(
            HELD_OUT["prompts"],
            max_length=LENGTH,
            strip_prompt=True,
            stop_token_ids=None,
        )
        assert scores.responses == list(own)
        written.append(scores.responses)
        distiller.compile(optimizer=keras.optimizers.SGD(1.0))
    assert written[0] != written[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(x=["Alice"]), '`x` must be a dict of "prompts" and "responses"'),
        (dict(x={"prompts": ["a"]}), '`x` must be a dict of "prompts"'),
        (
            dict(x={"prompts": ["a", "b"], "responses": ["c"]}),
            "Received: 2 prompts and 1 responses",
        ),
        (dict(metrics="rouge"), "`metrics` must be.*Received: 'rouge'"),
        (dict(metrics=[keras_hub.metrics.Bleu]), "`metrics` must be"),
        (dict(metrics=[]), "at least one metric"),
        (dict(metrics=["exact_match"] * 2), "a name of its own"),
        (dict(every=0), "`every` must be at least 1"),
        (dict(batch_size=0), "`batch_size` must be at least 1"),
        (dict(sampler="gready"), "sampler"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        GenerationMetrics(**{"x": HELD_OUT, **arguments})


def test_references_are_strings():
    with pytest.raises(TypeError, match="Received in row 1: None"):
        GenerationMetrics({"prompts": ["a", "b"], "responses": ["c", None]})


def test_text_needs_a_preprocessor():
    models = [causal_lm("gpt2", seed=seed) for seed in (1, 2)]
    distiller = keras_skd.Distiller(*models, rollout="on_policy")
    distiller.compile()
    ids = {
        "token_ids": np.ones((1, 4), int),
        "padding_mask": np.eye(1, 4, dtype=int),
    }
    with pytest.raises(ValueError, match="scores text.*preprocessor=None"):
        distiller.fit(ids, callbacks=[GenerationMetrics(HELD_OUT)], verbose=0)
