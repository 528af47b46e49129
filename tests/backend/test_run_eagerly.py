"""`compile(run_eagerly=True)` runs rollouts in Python, and changes no token."""

import functools

import numpy as np
import pytest
from keras import ops

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm
from tests.support.writing import writer

BATCH = prompts((2, 3), 5)


def speculative():
    return rollouts.Speculative(
        acceptance=acceptance.TopK(8),
        num_speculative_tokens=2,
        # TensorFlow draws different random numbers with XLA than without.
        student_sampler="greedy",
        teacher_sampler="greedy",
    )


@functools.cache
def models():
    return [random_causal_lm("llama", seed, num_layers=1) for seed in (0, 1)]


def distiller(rollout, run_eagerly):
    distiller = keras_skd.Distiller(
        *models(), rollout, stop_token_ids=(), seed=3
    )
    distiller.compile(run_eagerly=run_eagerly)
    return distiller


@pytest.fixture
def tokens_read(monkeypatch):
    """The tokens that the student's layers see: values, not tracers."""
    tokens_read = []
    _, student = models()
    call = student.call_with_cache

    @functools.wraps(call)
    def watched(token_ids, *args, **kwargs):
        tokens_read.extend(ops.convert_to_numpy(token_ids).flatten())
        return call(token_ids, *args, **kwargs)

    def watch():
        monkeypatch.setattr(student, "call_with_cache", watched)
        return tokens_read

    return watch


def test_tokens_are_the_same(tokens_read):
    expected = writer(distiller(speculative(), run_eagerly=False))(BATCH)
    write = writer(distiller(speculative(), run_eagerly=True))
    seen = tokens_read()
    written = write(BATCH)
    for name in ("token_ids", "sources", "response_mask"):
        np.testing.assert_array_equal(written[name], expected[name])
    # No model reads the last token of a sequence.
    assert {*written["token_ids"][:, :-1].flatten()} <= {*seen}


def test_the_switch_can_be_turned_at_any_time(tokens_read):
    model = distiller("on_policy", run_eagerly=False)
    write = writer(model)
    write(BATCH)
    seen = tokens_read()
    for run_eagerly in (True, False):
        model.run_eagerly = run_eagerly
        seen.clear()
        write(BATCH)
        assert bool(seen) == run_eagerly


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_a_loop_of_keras(tokens_read, method):
    model = distiller(speculative(), run_eagerly=True)
    seen = tokens_read()
    getattr(model, method)(BATCH, verbose=0)
    assert len(seen) > BATCH["token_ids"].size
