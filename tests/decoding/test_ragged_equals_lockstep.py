"""Every way to decode writes what Algorithm 1 does, written out in Python."""

import functools
import itertools

import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_skd import acceptance
from keras_skd import rollouts
from keras_skd import sources
from keras_skd.decoding import CachedCausalLM
from tests.causal_lms import ARCHITECTURES
from tests.causal_lms import RECURRENT
from tests.decoding.algorithm_1 import write_greedily
from tests.decoding.test_cached_causal_lm import expected_to_differ
from tests.writing import forward
from tests.writing import prompts
from tests.writing import random_causal_lm
from tests.writing import write

LENGTH = 16
NUM_DRAFTS = 3
# The last two have room for two tokens and for one: less than a block.
PROMPTS = prompts((1, 1, 2, 3, 5, 7, LENGTH - 2, LENGTH - 1), LENGTH)

model = functools.cache(random_causal_lm)


def speculative(k, num_drafts=NUM_DRAFTS, decoding="auto"):
    return rollouts.Speculative(
        acceptance=acceptance.TopK(k),
        num_speculative_tokens=num_drafts,
        student_sampler="greedy",
        teacher_sampler="greedy",
        decoding=decoding,
    )


def everything_happens(written):
    """Whether a batch has all that could go wrong in it."""
    row = "".join(map(str, (row for row in written.tolist())))
    rows = ["".join(map(str, row)) for row in written.tolist()]
    row = "|".join(rows)
    stopped = [r.rstrip("0")[-1] for r in rows if r.endswith("00")]
    return (
        # A row that a draft stops, one that the teacher stops, and a long one
        # that goes on beside them.
        {"2", "3"} <= set(stopped)
        and len(rows[0].rstrip("0")) == LENGTH
        # Drafts that all stand, drafts after a rejected one, and the teacher
        # twice in turn.
        and "2" * NUM_DRAFTS in row
        and "32" in row
        and "33" in row
    )


def find_case(student, teacher):
    """How strict a gate and which stop tokens make everything happen."""
    for k in (16, 12, 20, 10, 22, 8, 24):
        token_ids, written, margin = write_greedily(
            student, teacher, k, PROMPTS
        )
        response = written > sources.PROMPT
        stops = np.unique(token_ids[response]).tolist()
        for stop_token_ids in itertools.combinations(stops, 2):
            is_stop = response & np.isin(token_ids, stop_token_ids)
            after = np.cumsum(is_stop, axis=1) - is_stop > 0
            if margin > 1e-4 and everything_happens(
                np.where(after, sources.PADDING, written)
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
        actual["response_mask"], written > sources.PROMPT
    )


@pytest.mark.parametrize(
    "architecture", [expected_to_differ(name) for name in ARCHITECTURES]
)
def test_greedy_speculation_is_algorithm_1(architecture):
    models = model(architecture, seed=0), model(architecture, seed=1)
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
    # What the teacher thought of each token is what it thinks afterwards.
    predicts = ragged["response_mask"][:, 1:]
    hidden_states = ragged["teacher_hidden_states"][:, :-1][predicts]
    np.testing.assert_allclose(
        ops.convert_to_numpy(
            CachedCausalLM(models[0]).logits(ops.convert_to_tensor(hidden_states))
        ),
        teacher(expected[0])[:, :-1][predicts],
        atol=1e-5,
    )
