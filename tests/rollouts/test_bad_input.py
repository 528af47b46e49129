"""The errors of rollouts that are used wrongly."""

import keras_hub
import pytest

from keras_skd import rollouts
from tests.support import bad_input


@pytest.fixture(scope="module")
def m():
    return bad_input.distillers()


@bad_input.cases(
    [
        (
            "rollout of an unknown name",
            lambda m: m.make(rollout="speculativ"),
            ValueError,
            ["`rollout`", "'speculativ'", "Did you mean 'speculative'?"],
        ),
        (
            "rollout of a sampler",
            lambda m: m.make(rollout=keras_hub.samplers.GreedySampler()),
            TypeError,
            ["`rollout`", "GreedySampler"],
        ),
        (
            "rollout that cannot roll a recurrent model back",
            lambda m: m.make(
                bad_input.rwkv7(), m.student, m.speculative(decoding="ragged")
            ).generate_rollout(bad_input.IDS),
            ValueError,
            ["`decoding='ragged'`", "RWKV7CausalLM", "'lockstep'"],
        ),
    ],
)
def test_rollouts(m, call, error, words):
    bad_input.check(m, call, error, words)


@bad_input.cases(
    [
        (
            "num_speculative_tokens of zero",
            lambda m: m.speculative(num_speculative_tokens=0),
            ValueError,
            ["`num_speculative_tokens`", "at least 1", "0"],
        ),
        (
            "num_speculative_tokens of a float",
            lambda m: m.speculative(num_speculative_tokens=5.0),
            TypeError,
            ["`num_speculative_tokens`", "5.0", "float"],
        ),
        (
            "decoding of an unknown name",
            lambda m: m.speculative(decoding="beam"),
            ValueError,
            ["`decoding`", "'beam'", "'ragged'", "'lockstep'"],
        ),
        (
            "student_sampler of an unknown name",
            lambda m: m.speculative(student_sampler="gredy"),
            ValueError,
            ["`student_sampler`", "'gredy'", "'greedy'"],
        ),
        (
            "teacher_sampler of a number",
            lambda m: m.speculative(teacher_sampler=0.7),
            TypeError,
            ["`teacher_sampler`", "0.7", "float"],
        ),
        (
            "student_sampler that plans ahead",
            lambda m: rollouts.OnPolicy(keras_hub.samplers.BeamSampler()),
            ValueError,
            ["`student_sampler`", "BeamSampler"],
        ),
    ],
)
def test_arguments(m, call, error, words):
    bad_input.check(m, call, error, words)
