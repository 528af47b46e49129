"""Extreme acceptance rates, the ends of rows, and the streams of seeds."""

import functools

import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import Source
from keras_skd import acceptance
from keras_skd import rollouts
from tests.support.algorithm_1 import write_greedily
from tests.support.causal_lms import VOCABULARY_SIZE
from tests.support.writing import AcceptNothing
from tests.support.writing import forward
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm
from tests.support.writing import write
from tests.support.writing import writer

LENGTH = 16
LENGTHS = (1, 1, 2, 3, 5, 7, LENGTH - 2, LENGTH - 1, LENGTH)
STOP = (3, 11)
NUM_DRAFTS = 4


@functools.cache
def models():
    """Teacher and student."""
    return random_causal_lm("llama", 0), random_causal_lm("llama", 1)


@functools.cache
def logits():
    """Of teacher and student."""
    return tuple(map(forward, models()))


def speculative(rule, sampler="greedy", **kwargs):
    return rollouts.Speculative(
        acceptance=rule,
        num_speculative_tokens=NUM_DRAFTS,
        **{"student_sampler": sampler, "teacher_sampler": sampler, **kwargs},
    )


def assert_written_by(author, written, token_ids, expected):
    """By one author, up to a stop token in some rows and not in others."""
    ends = (expected > 0).sum(axis=1)
    assert set(expected.ravel()) == {Source.PADDING, Source.PROMPT, author}
    assert ends.min() < LENGTH and (ends == LENGTH).sum() > 3
    np.testing.assert_array_equal(written["sources"], expected)
    np.testing.assert_array_equal(
        written["token_ids"], np.where(expected, token_ids, 0)
    )


def test_all_of_the_vocabulary_is_the_student_alone():
    teacher, student = logits()
    batch = prompts(LENGTHS, LENGTH)
    *expected, margin = write_greedily(
        student, None, VOCABULARY_SIZE, batch, STOP
    )
    assert margin > 1e-4
    for rollout in (
        speculative(acceptance.TopK(VOCABULARY_SIZE)),
        rollouts.OnPolicy("greedy"),
    ):
        written = write(rollout, *models(), batch, STOP)
        assert_written_by(Source.STUDENT, written, *expected)


def test_nothing_accepted_is_the_teacher_alone():
    teacher, student = logits()
    batch = prompts(LENGTHS, LENGTH)
    *expected, margin = write_greedily(None, teacher, 0, batch, STOP)
    assert margin > 1e-4
    for rollout in (
        speculative(AcceptNothing()),
        speculative(AcceptNothing(), "random", teacher_sampler="greedy"),
        rollouts.Teacher("greedy"),
    ):
        written = write(rollout, *models(), batch, STOP)
        assert_written_by(Source.TEACHER, written, *expected)


def test_a_row_is_its_own():
    batch = prompts(LENGTHS, LENGTH)
    run = writer(
        keras_skd.Distiller(
            *models(),
            speculative(acceptance.TopK(12)),
            stop_token_ids=STOP,
        )
    )
    together = run(batch)
    ends = together["padding_mask"].sum(axis=1)
    assert {2, 3} <= set(together["sources"].ravel())
    # Some stop early, beside others that go on.
    assert ends[:6].min() < LENGTH == ends[:6].max()

    # The full row is unchanged.
    np.testing.assert_array_equal(
        together["token_ids"][-1], batch["token_ids"][-1]
    )
    assert set(together["sources"][-1]) == {Source.PROMPT}
    assert not together["response_mask"][-1].any()

    def full_but(row):
        alone = {key: value.copy() for key, value in batch.items()}
        for i in range(len(LENGTHS)):
            if i != row:
                alone["token_ids"][i] = 1 + i
                alone["padding_mask"][i] = 1
        return alone

    for row in range(len(LENGTHS)):
        alone = run(full_but(row))
        for key in ("token_ids", "padding_mask", "response_mask", "sources"):
            np.testing.assert_array_equal(alone[key][row], together[key][row])
    # Rows do not depend on the order of the batch.
    order = np.random.default_rng(0).permutation(len(LENGTHS))
    shuffled = run({key: value[order] for key, value in batch.items()})
    for key in ("token_ids", "padding_mask", "response_mask", "sources"):
        np.testing.assert_array_equal(shuffled[key], together[key][order])


def assert_well_formed(written, batch):
    """Properties of every rollout, whatever was drawn."""
    token_ids, mask = written["token_ids"], written["padding_mask"]
    is_prompt = batch["padding_mask"].astype("bool")
    response = written["response_mask"]
    np.testing.assert_array_equal(
        token_ids[is_prompt], batch["token_ids"][is_prompt]
    )
    np.testing.assert_array_equal(mask, is_prompt | response)
    assert not (is_prompt & response).any()
    assert not token_ids[~mask].any()
    assert ((token_ids >= 0) & (token_ids < VOCABULARY_SIZE)).all()
    np.testing.assert_array_equal(
        mask, np.arange(LENGTH) < mask.sum(axis=1)[:, None]
    )
    source = written["sources"]
    np.testing.assert_array_equal(source == Source.PADDING, ~mask)
    np.testing.assert_array_equal(source == Source.PROMPT, is_prompt)
    # One stop token, the last one, or the end of the sequence. A stop token in
    # the prompt stops nothing.
    is_stop = response & np.isin(token_ids, STOP)
    last = np.maximum(mask.sum(axis=1) - 1, 0)
    rows = np.arange(len(mask))
    assert (is_stop.sum(axis=1) == is_stop[rows, last]).all()
    assert (is_stop[rows, last] | (last == LENGTH - 1)).all()


def test_samples():
    lengths = 1 + np.arange(64) % LENGTH
    batch = prompts(lengths, LENGTH)
    is_prompt = batch["padding_mask"].astype("bool")
    assert np.isin(batch["token_ids"][is_prompt], STOP).any()

    def calls(seed):
        rollout = speculative(
            acceptance.TopK(12),
            student_sampler=keras_hub.samplers.TopPSampler(p=0.9),
            teacher_sampler="random",
        )
        run = writer(
            keras_skd.Distiller(
                *models(), rollout, stop_token_ids=STOP, seed=seed
            )
        )
        return [run(batch) for _ in range(2)]

    first, second = calls(seed=1)
    for written in (first, second):
        assert_well_formed(written, batch)
        # Stopped by a draft before the last one, and by the teacher.
        stops = np.isin(written["token_ids"], STOP) & written["response_mask"]
        assert {2, 3} <= set(written["sources"][stops])
        assert {2, 3} <= set(written["sources"][:, -1])
    assert (first["token_ids"] != second["token_ids"]).any()
    again = calls(seed=1)
    for written, same in zip((first, second), again, strict=True):
        for key in ("token_ids", "sources"):
            np.testing.assert_array_equal(written[key], same[key])
    assert (first["token_ids"] != calls(seed=2)[0]["token_ids"]).any()


def test_no_stop_token_at_all():
    batch = prompts(LENGTHS, LENGTH)
    written = write(
        speculative(acceptance.TopK(12), "random"), *models(), batch, seed=0
    )
    assert written["padding_mask"].all()
    assert {2, 3} <= set(written["sources"].ravel())


@pytest.mark.parametrize("num_drafts", [NUM_DRAFTS, LENGTH + 4])
def test_lossless_and_greedy_is_the_teacher_alone(num_drafts):
    teacher, _ = logits()
    batch = prompts(LENGTHS, LENGTH)
    rollout = rollouts.Speculative(
        acceptance=acceptance.Lossless(),
        num_speculative_tokens=num_drafts,
        student_sampler="greedy",
        teacher_sampler="greedy",
    )
    token_ids, expected, margin = write_greedily(None, teacher, 0, batch, STOP)
    assert margin > 1e-4
    written = write(rollout, *models(), batch, STOP, seed=0)
    np.testing.assert_array_equal(written["padding_mask"], expected > 0)
    np.testing.assert_array_equal(
        written["token_ids"], np.where(expected, token_ids, 0)
    )
