"""Whole sequences are sampled from the distribution of Algorithm 1.

Each test here would fail by chance with one in a hundred seeds: they are fixed.
"""

import functools

import keras_hub
import numpy as np
import pytest

import keras_skd
from keras_skd import acceptance
from keras_skd import rollouts
from tests.support import exact
from tests.support.writing import AcceptNothing
from tests.support.writing import forward
from tests.support.writing import random_causal_lm
from tests.support.writing import writer

VOCABULARY_SIZE = 5
LENGTH = 5
STOP = (4,)
K = 2
# Of different lengths: in the same round, rows are at different positions.
PROMPTS = ((2, 3), (1, 3, 0))
ROWS = 16384

SAMPLERS = {
    "random": (
        lambda seed: keras_hub.samplers.RandomSampler(
            temperature=0.7, seed=seed
        ),
        lambda seed: keras_hub.samplers.RandomSampler(
            temperature=1.3, seed=seed
        ),
        lambda logits: exact.softmax(logits, 0.7),
        lambda logits: exact.softmax(logits, 1.3),
    ),
    "filtered": (
        lambda seed: keras_hub.samplers.TopKSampler(k=4, seed=seed),
        lambda seed: keras_hub.samplers.TopPSampler(
            p=0.5, temperature=1.3, seed=seed
        ),
        lambda logits: exact.top_k(logits, 4),
        lambda logits: exact.top_p(logits, 0.5, 1.3),
    ),
}


@functools.cache
def models():
    return tuple(
        random_causal_lm(
            "llama",
            seed=seed,
            embedding=0.3,
            vocabulary_size=VOCABULARY_SIZE,
            num_layers=1,
        )
        for seed in (2, 4)
    )


@functools.cache
def conditionals(prompt):
    """Of student and teacher."""
    teacher, student = models()
    return tuple(
        exact.Conditionals(
            forward(model), prompt, LENGTH - len(prompt), VOCABULARY_SIZE
        )
        for model in (student, teacher)
    )


def distributions(samplers, make_step=exact.algorithm_1, gate=None):
    """Of the responses to each prompt."""
    gate = gate or exact.top_k_gate(K)
    return [
        exact.distribution(
            make_step(*conditionals(prompt), *SAMPLERS[samplers][2:], gate),
            LENGTH - len(prompt),
            STOP,
        )
        for prompt in PROMPTS
    ]


def sample(rollout, seed=0):
    """The outcomes of a rollout and their counts, for each prompt."""
    token_ids = np.zeros((len(PROMPTS), LENGTH), "int32")
    for row, prompt in enumerate(PROMPTS):
        token_ids[row, : len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
    batch = {
        "token_ids": np.tile(token_ids, (ROWS, 1)),
        "padding_mask": np.tile(mask, (ROWS, 1)),
    }
    distiller = keras_skd.Distiller(
        *models(), rollout, stop_token_ids=STOP, seed=seed
    )
    written = writer(distiller)(batch)
    return [
        exact.count(
            {key: x[row :: len(PROMPTS)] for key, x in written.items()},
            lengths[row],
        )
        for row in range(len(PROMPTS))
    ]


def speculative(samplers, rule=None, **kwargs):
    student_sampler, teacher_sampler, *_ = SAMPLERS[samplers]
    return rollouts.Speculative(
        acceptance=rule or acceptance.TopK(K),
        student_sampler=student_sampler(None),
        teacher_sampler=teacher_sampler(None),
        **kwargs,
    )


def assert_distributed(counts, expected):
    for observed, probabilities in zip(counts, expected, strict=True):
        assert sum(observed.values()) == ROWS
        assert exact.p_value(observed, probabilities) > 0.01


@pytest.mark.parametrize(
    "samplers,arguments",
    [
        ("random", dict(num_speculative_tokens=3)),
        ("random", dict(num_speculative_tokens=2)),
        ("random", dict(decoding="lockstep")),
        ("filtered", dict(num_speculative_tokens="auto")),
    ],
    ids=str,
)
def test_speculation_samples_from_algorithm_1(samplers, arguments):
    counts = sample(speculative(samplers, **arguments))
    assert_distributed(counts, distributions(samplers))


def test_accepting_everything_samples_from_the_student():
    rule = acceptance.TopK(VOCABULARY_SIZE)
    counts = sample(speculative("random", rule, num_speculative_tokens=2))
    student_only = exact.top_k_gate(VOCABULARY_SIZE)
    expected = distributions("random", gate=student_only)
    assert all(
        set(sources) == {exact.STUDENT} for d in expected for _, sources in d
    )
    assert_distributed(counts, expected)


def test_accepting_nothing_samples_from_the_teacher():
    counts = sample(
        speculative("random", AcceptNothing(), num_speculative_tokens=2)
    )
    expected = distributions("random", gate=exact.top_k_gate(0))
    assert all(
        set(sources) == {exact.TEACHER} for d in expected for _, sources in d
    )
    assert_distributed(counts, expected)


GAMMA = 0.6


def mixture(student, teacher, draw_student, draw_teacher, gate):
    """The distribution of `Interpolated`."""

    def step(prefix, state):
        q = draw_student(student[prefix])
        p = draw_teacher(teacher[prefix])
        mixed = (1 - GAMMA) * q + GAMMA * p
        for token in range(len(q)):
            stands = min(q[token], mixed[token])
            yield token, exact.STUDENT, stands, 0
            yield token, exact.TEACHER, mixed[token] - stands, 0

    return step


def test_interpolation_samples_from_the_mixture():
    rule = acceptance.Interpolated(GAMMA)
    counts = sample(speculative("filtered", rule, num_speculative_tokens=3))
    assert_distributed(counts, distributions("filtered", mixture))


# The same tests on samples from wrong distributions.


@pytest.mark.parametrize("samplers", SAMPLERS)
def test_rejects_a_gate_that_tests_another_token(samplers):
    wrong = distributions(samplers, exact.gate_on_another_draw)
    for right, mutant in zip(distributions(samplers), wrong):
        assert exact.p_value(exact.sample(mutant, ROWS), right) < 1e-4


def test_rejects_a_gate_on_warped_logits():
    # Temperature alone does not change ranks.
    gate = exact.warped_top_k_gate(K)
    wrong = distributions("filtered", gate=gate)
    for right, mutant in zip(distributions("filtered"), wrong):
        assert exact.p_value(exact.sample(mutant, ROWS), right) < 1e-4


@pytest.mark.parametrize("samplers", SAMPLERS)
def test_rejects_a_bonus_token(samplers):
    # With room for three tokens, the third is the bonus. With room for two
    # there is none.
    bonus = functools.partial(exact.with_bonus, 2)
    wrong = distributions(samplers, bonus)
    right = distributions(samplers)
    assert exact.p_value(exact.sample(wrong[0], ROWS), right[0]) < 1e-4


@pytest.mark.parametrize("samplers", SAMPLERS)
def test_does_not_reject_what_is_right(samplers):
    for right in distributions(samplers):
        p_values = [
            exact.p_value(exact.sample(right, ROWS, seed), right)
            for seed in range(100)
        ]
        # p-values of a true hypothesis are uniform between 0 and 1.
        assert 0.25 < np.mean(np.array(p_values) < 0.5) < 0.75
