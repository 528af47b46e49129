"""All ways of decoding write the same text as Algorithm 1 in plain Python."""

import functools
import itertools

import numpy as np
import pytest

import keras_skd
from keras_skd import Source
from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding import Prompts
from tests.decoding.test_cached_causal_lm import expected_to_differ
from tests.support.algorithm_1 import write_greedily
from tests.support.causal_lms import ARCHITECTURES
from tests.support.causal_lms import RECURRENT
from tests.support.causal_lms import VOCABULARY_SIZE
from tests.support.writing import compiled
from tests.support.writing import forward
from tests.support.writing import prompts
from tests.support.writing import random_causal_lm
from tests.support.writing import write
from tests.support.writing import writer

LENGTH = 16
NUM_DRAFTS = 3
# The last two have room for two tokens and for one: fewer than the drafts.
PROMPTS = prompts((1, 1, 2, 3, 5, 7, LENGTH - 2, LENGTH - 1), LENGTH)


@functools.cache
def model(architecture, seed):
    """A teacher (0) of two layers or a student (1) of one."""
    return random_causal_lm(architecture, seed, num_layers=2 - seed)


def speculative(k, num_drafts=NUM_DRAFTS, decoding="auto"):
    return rollouts.Speculative(
        acceptance=acceptance.TopK(k),
        num_speculative_tokens=num_drafts,
        student_sampler="greedy",
        teacher_sampler="greedy",
        decoding=decoding,
    )


def everything_happens(written):
    """Whether a batch covers all edge cases."""
    row = "".join(map(str, (row for row in written.tolist())))
    rows = ["".join(map(str, row)) for row in written.tolist()]
    row = "|".join(rows)
    stopped = [r.rstrip("0")[-1] for r in rows if r.endswith("00")]
    return (
        # A row that a draft stops, one that the teacher stops, and a long one
        # that goes on beside them.
        {"2", "3"} <= set(stopped)
        and len(rows[0].rstrip("0")) == LENGTH
        # All drafts accepted, a draft after a replacement, and two
        # replacements in a row.
        and "2" * NUM_DRAFTS in row
        and "32" in row
        and "33" in row
    )


def find_case(student, teacher):
    """Finds a `k` and stop tokens for which everything happens."""
    for k in (16, 12, 20, 10, 22, 8, 24):
        token_ids, written, margin = write_greedily(
            student, teacher, k, PROMPTS
        )
        response = written > Source.PROMPT
        stops = np.unique(token_ids[response]).tolist()
        for stop_token_ids in itertools.combinations(stops, 2):
            is_stop = response & np.isin(token_ids, stop_token_ids)
            after = np.cumsum(is_stop, axis=1) - is_stop > 0
            if margin > 1e-4 and everything_happens(
                np.where(after, Source.PADDING, written)
            ):
                return k, stop_token_ids
    raise AssertionError("These two models never do all that is to be tested.")


def assert_written(actual, token_ids, written):
    np.testing.assert_array_equal(actual["sources"], written)
    np.testing.assert_array_equal(
        actual["token_ids"], np.where(written, token_ids, 0)
    )
    np.testing.assert_array_equal(actual["padding_mask"], written > 0)
    np.testing.assert_array_equal(
        actual["response_mask"], written > Source.PROMPT
    )


def pairs():
    """Pairs of models of every architecture, and of two different ones."""
    for name in ARCHITECTURES:
        marks = expected_to_differ(name).marks
        yield pytest.param(name, name, marks=marks, id=name)
    yield pytest.param("gemma3", "gpt2", id="gemma3-gpt2")


@pytest.mark.parametrize("teacher,student", list(pairs()))
def test_greedy_speculation_is_algorithm_1(teacher, student):
    models = model(teacher, 0), model(student, 1)
    teacher, student = map(forward, models)
    k, stop_token_ids = find_case(student, teacher)
    expected = write_greedily(student, teacher, k, PROMPTS, stop_token_ids)[:2]
    assert everything_happens(expected[1])

    lockstep = write(
        speculative(k, decoding="lockstep"),
        *models,
        PROMPTS,
        stop_token_ids,
        xla=False,
    )
    ragged = write(speculative(k), *models, PROMPTS, stop_token_ids)
    assert_written(lockstep, *expected)
    assert_written(ragged, *expected)
    # The teacher's states from verification equal those of a full pass.
    predicts = ragged["response_mask"][:, 1:]
    project = compiled(CachedCausalLM(models[0]).logits, xla=False)
    np.testing.assert_allclose(
        project(ragged["teacher_hidden_states"][:, :-1][predicts]),
        teacher(expected[0])[:, :-1][predicts],
        atol=1e-5,
    )


@functools.cache
def llama_case():
    """Models, their forward passes, and a case in which everything happens."""
    models = model("llama", 0), model("llama", 1)
    teacher, student = map(forward, models)
    return models, teacher, student, *find_case(student, teacher)


@pytest.mark.parametrize("num_drafts", [1, 5, LENGTH + 4, "auto"])
def test_num_speculative_tokens_changes_nothing(num_drafts):
    models, teacher, student, k, stop_token_ids = llama_case()
    distiller = keras_skd.Distiller(
        *models, speculative(k, num_drafts), stop_token_ids=stop_token_ids
    )
    run = writer(distiller)
    expected = write_greedily(student, teacher, k, PROMPTS, stop_token_ids)[:2]
    # A second time: "auto" has learnt from the first.
    for _ in range(2):
        assert_written(run(PROMPTS), *expected)


def test_sequences_longer_than_the_first_cache():
    # Caches grow at 128 positions. In the first batch, rows get there by and
    # by, beside one that has been full from the start; in the second, some
    # begin on either side.
    length = 140
    models, *_, k, _ = llama_case()
    teacher, student = (forward(model, xla=True) for model in models)
    speculate = keras_skd.Distiller(
        *models, speculative(k), stop_token_ids=(0,)
    )
    alone = keras_skd.Distiller(
        *models, rollouts.OnPolicy("greedy"), stop_token_ids=(0,)
    )
    for lengths in (
        (1, 60, 100, 124, 125, 126, length),
        (1, 126, 127, 128, 129, 138, 139),
    ):
        batch = prompts(lengths, length)
        *expected, margin = write_greedily(student, teacher, k, batch, (0,))
        assert margin > 1e-5
        assert (expected[1][:, -1] > 0).sum() > 4
        assert_written(writer(speculate)(batch), *expected)

        *expected, margin = write_greedily(
            student, teacher, VOCABULARY_SIZE, batch, (0,)
        )
        assert margin > 1e-5
        assert_written(writer(alone)(batch), *expected)


def test_the_last_rows_of_a_large_batch(monkeypatch):
    # When four of the 18 rows are left, they go on alone. It is the same text
    # as of batches of six, which are too small for that.
    models, *_, k, stop_token_ids = llama_case()
    batch = prompts([1, 2, 3, LENGTH - 2, LENGTH - 1, LENGTH] * 3, LENGTH)
    own = prompts([4, 1] * 9, LENGTH + 3)
    with_own_prompts = batch | {f"teacher_{key}": own[key] for key in own}
    taken, take = [], Prompts.take
    monkeypatch.setattr(
        Prompts, "take", lambda *args: taken.append(1) or take(*args)
    )
    for rollout, rows in (
        (speculative(k), with_own_prompts),
        (rollouts.OnPolicy("greedy"), batch),
    ):
        distiller = keras_skd.Distiller(
            *models, rollout, stop_token_ids=stop_token_ids
        )
        names = ["rejected_rank", "acceptance_by_draft_position"]
        distiller.compile(rollout_metrics=names * rollout.is_speculative)
        run = writer(distiller)
        together = run(rows)
        parts = [
            run({key: x[first : first + 6] for key, x in rows.items()})
            for first in (0, 6, 12)
        ]
        lengths = together["response_mask"].sum(axis=1)
        assert len(set(lengths)) > 4
        for key, value in together.items():
            part = np.concatenate([part[key] for part in parts])
            if key == "teacher_hidden_states":
                # At the end of a row and after, they mean nothing.
                mask = np.pad(
                    together["response_mask"][:, 1:], [(0, 0), (0, 1)]
                )
                value, part = value[mask], part[mask]
                np.testing.assert_allclose(value, part, atol=1e-5)
            else:
                np.testing.assert_array_equal(value, part, err_msg=key)
    assert taken == [1]


@pytest.mark.parametrize(
    "teacher,student", [("llama", "rwkv7"), ("qwen3_5", "llama")]
)
def test_recurrent_models_are_decoded_in_lockstep(teacher, student):
    models = model(teacher, 0), model(student, 1)
    teacher, student = map(forward, models)
    k, stop_token_ids = find_case(student, teacher)
    expected = write_greedily(student, teacher, k, PROMPTS, stop_token_ids)[:2]
    assert_written(
        write(speculative(k), *models, PROMPTS, stop_token_ids, xla=False),
        *expected,
    )
    with pytest.raises(ValueError, match="recurrent"):
        write(speculative(k, decoding="ragged"), *models, PROMPTS, xla=False)


@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_recurrent_model_writes_alone(architecture):
    models = model("llama", 0), model(architecture, 1)
    *expected, margin = write_greedily(
        forward(models[1]), None, VOCABULARY_SIZE, PROMPTS
    )
    assert margin > 1e-5
    written = write(rollouts.OnPolicy("greedy"), *models, PROMPTS, xla=False)
    assert_written(written, *expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_student_alone_is_keras_hubs_generate(architecture):
    models = model("llama", 0), model(architecture, 1)
    student = models[1]
    student.compile(sampler="greedy")
    without_stop = student.generate(PROMPTS, stop_token_ids=None)
    # A token that ends some of the responses.
    stop = int(without_stop["token_ids"][0, LENGTH // 2])
    theirs = student.generate(PROMPTS, stop_token_ids=[stop])
    ours = write(rollouts.OnPolicy("greedy"), *models, PROMPTS, (stop,))
    lengths = ours["padding_mask"].sum(axis=1)
    assert lengths.min() < LENGTH == lengths.max()
    np.testing.assert_array_equal(
        ours["padding_mask"], np.array(theirs["padding_mask"], "bool")
    )
    np.testing.assert_array_equal(
        ours["token_ids"], theirs["token_ids"] * theirs["padding_mask"]
    )
    assert set(np.unique(ours["sources"])) <= {
        Source.PADDING,
        Source.PROMPT,
        Source.STUDENT,
    }
